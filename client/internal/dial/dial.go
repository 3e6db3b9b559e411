// Package dial connects to where operators say, and to no address that only this
// machine can mean: who may write a URL does not get to ask in its name.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Forbidden is the error of an address that is not connected to.
type Forbidden struct{ reason string }

// Error implements error.
func (f Forbidden) Error() string { return f.reason }

// A Policy says why an address is not connected to, or nothing.
type Policy func(netip.Addr) string

// A Func connects, as net.Dialer.DialContext does.
type Func = func(ctx context.Context, network, address string) (net.Conn, error)

// To returns a Func that asks may about each address that a name has come to mean:
// names are somebody else's to change. What is dialled is called what, in the
// plural, in errors.
func To(may Policy, what string) Func {
	d := net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return Forbidden{"the address cannot be read"}
		}
		if reason := may(plain(to.Addr())); reason != "" {
			return Forbidden{fmt.Sprintf("%s is %s, and %s are not there", to.Addr(), reason, what)}
		}
		return nil
	}}
	return d.DialContext
}

// Addresses at which clouds tell a machine its secrets, besides the link-local
// ones.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"):   true, // Amazon EC2
	netip.MustParseAddr("fd20:ce::254"):    true, // Google Cloud
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")    // RFC 791 §3.2
	nat64       = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1
	broadcast   = netip.MustParseAddr("255.255.255.255")
)

// Anywhere allows the internet, private networks and this machine, but not where a
// machine finds its own secrets.
func Anywhere(to netip.Addr) string {
	switch {
	case !to.IsValid() || to.IsUnspecified() || thisNetwork.Contains(to):
		return "no address of a host"
	case to.IsLinkLocalUnicast():
		return "a link-local address"
	case to.IsMulticast() || to == broadcast:
		return "an address of many"
	case metadata[to.WithZone("")]:
		return "a cloud's metadata service"
	}
	return ""
}

// Loopback allows this machine alone, as is right without TLS.
func Loopback(to netip.Addr) string {
	if !to.IsLoopback() {
		return "not on the loopback interface, and without TLS nothing leaves this machine"
	}
	return ""
}

// plain is an IPv4 address that IPv6 carries, or addr itself.
func plain(addr netip.Addr) netip.Addr {
	if nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr.Unmap()
}
