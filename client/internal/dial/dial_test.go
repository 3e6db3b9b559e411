package dial

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestPolicies(t *testing.T) {
	for addr, want := range map[string][2]bool{ // anywhere, on loopback
		"203.0.113.9": {true, false}, "2001:db8::9": {true, false}, "10.0.0.1": {true, false}, "192.168.1.1": {true, false}, "fd12::1": {true, false},
		"127.0.0.1": {true, true}, "127.9.9.9": {true, true}, "::1": {true, true}, "::ffff:127.0.0.1": {true, true}, "64:ff9b::7f00:1": {true, true},
		"169.254.169.254": {false, false}, "169.254.0.1": {false, false}, "::ffff:169.254.169.254": {false, false}, "64:ff9b::169.254.169.254": {false, false},
		"fe80::1": {false, false}, "fe80::1%eth0": {false, false}, "febf::1": {false, false}, "0.0.0.0": {false, false}, "0.1.2.3": {false, false}, "::": {false, false},
		"224.0.0.1": {false, false}, "239.1.1.1": {false, false}, "ff02::1": {false, false}, "255.255.255.255": {false, false},
		"168.63.129.16": {false, false}, "100.100.100.200": {false, false}, "192.0.0.192": {false, false}, "fd00:ec2::254": {false, false}, "fd00:ec2::254%1": {false, false}, "fd20:ce::254": {false, false},
	} {
		to := plain(netip.MustParseAddr(addr))
		if got := [2]bool{Anywhere(to) == "", Loopback(to) == ""}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if Anywhere(netip.Addr{}) == "" || Loopback(netip.Addr{}) == "" {
		t.Error("no address is one")
	}
}

// A name that means a forbidden address is as good as the address.
func TestNamesAreLookedThrough(t *testing.T) {
	d := To(func(to netip.Addr) string {
		if to.IsLoopback() {
			return "here"
		}
		return ""
	}, "tests")
	_, err := d(t.Context(), "tcp", net.JoinHostPort("localhost", "9"))
	if _, ok := errors.AsType[Forbidden](err); !ok {
		t.Error(err)
	}
}
