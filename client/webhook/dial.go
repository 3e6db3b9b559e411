package webhook

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// A forbidden is the error of an address that is not connected to.
type forbidden struct{ reason string }

func (f forbidden) Error() string { return f.reason }

// A policy says why an address is not connected to, or nothing.
type policy func(netip.Addr) string

// dialer returns a dialer that asks may about each address that a name has come
// to mean: names are somebody else's to change.
func dialer(may policy) dial {
	d := net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return forbidden{"the address cannot be read"}
		}
		if reason := may(plain(to.Addr())); reason != "" {
			return forbidden{fmt.Sprintf("%s is %s, and webhooks are not there", to.Addr(), reason)}
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

// anywhere is where a webhook may be: on the internet, in a private network or
// on this machine, but not where a machine finds its own secrets.
func anywhere(to netip.Addr) string {
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

// loopback is where a webhook without TLS may be.
func loopback(to netip.Addr) string {
	if !to.IsLoopback() {
		return "not on the loopback interface, where http:// is for"
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
