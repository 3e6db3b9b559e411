package main

import (
	"context"
	"crypto/tls"
	"slices"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/pki"
)

// The keys of what provisioning is held against.
const (
	bare      = "bare"
	mutual    = "bare_mutual"
	bareHTTPS = "bare_https"
)

// A kind is one thing that is measured: a way to be provisioned, or what it is
// held against.
type kind struct {
	key     string // in the JSON results
	name    string // in the tables
	against string // key of what its CPU time is compared with, or empty
	bar     float64

	// One of these is set: what devices do at a bare server, or at Berth.
	visit     func(b *bencher, at *place) []step
	provision func(b *bencher, s *server) []step
	// ids names the devices that are provisioned.
	ids func(b *bencher, s *server) func(number int) string
}

// barest are what provisioning is held against.
var barest = []*kind{
	{key: bare, name: "bare handshake", visit: func(b *bencher, at *place) []step {
		return []step{{do: func(ctx context.Context, _ int) error { return at.shake(ctx, visitor{}) }}}
	}},
	{key: mutual, name: "bare mutual handshake", visit: func(b *bencher, at *place) []step {
		return []step{{do: func(ctx context.Context, i int) error {
			return at.shake(ctx, visitor{certificate: presented(b.fleet.byCA[i])})
		}}}
	}},
	{key: "bare_resumed", name: "bare handshake, resumed", against: bare, visit: func(b *bencher, at *place) []step {
		return b.resumed(func(ctx context.Context, _ int, v visitor) error { return at.shake(ctx, v) }, nil)
	}},
	{key: "bare_mutual_resumed", name: "bare mutual handshake, resumed", against: mutual, visit: func(b *bencher, at *place) []step {
		return b.resumed(func(ctx context.Context, _ int, v visitor) error { return at.shake(ctx, v) }, b.fleet.byCA)
	}},
	{key: bareHTTPS, name: "bare HTTPS request", against: bare, visit: func(b *bencher, at *place) []step {
		return []step{{do: func(ctx context.Context, _ int) error { return at.request(ctx) }}}
	}},
}

// kinds are the ways to be provisioned.
var kinds = []*kind{
	{key: "symmetric_key", name: "symmetric key, group", against: bare, bar: 1.5, ids: groupKeyIDs,
		provision: func(b *bencher, s *server) []step {
			return []step{{do: func(ctx context.Context, i int) error { return b.byGroupKey(ctx, s, i, visitor{}) }}}
		}},
	{key: "symmetric_key_individual", name: "symmetric key, individual", against: bare, bar: 1.5, ids: individualIDs(symmetricKey),
		provision: func(b *bencher, s *server) []step {
			return []step{{do: func(ctx context.Context, i int) error {
				i %= b.fleet.pool(s.size)
				return s.provisionWithKey(ctx, individualID(symmetricKey, i), b.fleet.keys[i], visitor{})
			}}}
		}},
	{key: "tpm", name: "TPM, one connection", against: bare, bar: 1.9, ids: individualIDs(byTPM),
		provision: func(b *bencher, s *server) []step { return b.withTPM(s, false) }},
	{key: "tpm_two_connections", name: "TPM, two connections", against: bare, ids: individualIDs(byTPM),
		provision: func(b *bencher, s *server) []step { return b.withTPM(s, true) }},
	{key: "x509_group", name: "X.509 group", against: mutual, bar: 1.6, ids: caIDs,
		provision: func(b *bencher, s *server) []step {
			return []step{{do: func(ctx context.Context, i int) error { return b.withCertificate(ctx, s, i, visitor{}) }}}
		}},
	{key: "x509_individual", name: "X.509, individual", against: mutual, ids: individualIDs(byCertificate),
		provision: func(b *bencher, s *server) []step {
			return []step{{do: func(ctx context.Context, i int) error {
				i %= b.fleet.pool(s.size)
				v := visitor{certificate: presented(b.fleet.certified[i])}
				return s.provisionWithCertificate(ctx, individualID(byCertificate, i), v)
			}}}
		}},
	{key: "symmetric_key_again", name: "symmetric key, group, again", against: bare, ids: groupKeyIDs,
		provision: func(b *bencher, s *server) []step {
			once := func(ctx context.Context, i int) error { return b.byGroupKey(ctx, s, i, visitor{}) }
			return []step{{do: once, apart: true}, {do: once}}
		}},
	{key: "symmetric_key_resumed", name: "symmetric key, group, again, resumed", against: bare, ids: groupKeyIDs,
		provision: func(b *bencher, s *server) []step {
			return b.resumed(func(ctx context.Context, i int, v visitor) error { return b.byGroupKey(ctx, s, i, v) }, nil)
		}},
	{key: "x509_group_resumed", name: "X.509 group, again, resumed", against: mutual, ids: caIDs,
		provision: func(b *bencher, s *server) []step {
			return b.resumed(func(ctx context.Context, i int, v visitor) error { return b.withCertificate(ctx, s, i, v) }, b.fleet.byCA)
		}},
}

// keys are those of kinds and barest.
func keys() []string {
	var all []string
	for _, k := range slices.Concat(barest, kinds) {
		all = append(all, k.key)
	}
	return all
}

func kindOf(key string) *kind {
	i := slices.IndexFunc(barest, func(k *kind) bool { return k.key == key })
	return barest[i]
}

func (o options) wants(key string) bool { return slices.Contains(o.only, key) }

func (o options) wantsAny(keys ...string) bool { return slices.ContainsFunc(keys, o.wants) }

// resumed lets every device come twice, the second time on the session of the
// first; that is what is measured. leaves are what they show, or nil.
func (b *bencher) resumed(do func(ctx context.Context, i int, v visitor) error, leaves []*pki.Leaf) []step {
	visitors := make([]visitor, b.total())
	return []step{
		{apart: true, do: func(ctx context.Context, i int) error {
			visitors[i].sessions = tls.NewLRUClientSessionCache(1)
			if leaves != nil {
				visitors[i].certificate = presented(leaves[i])
			}
			return do(ctx, i, visitors[i])
		}},
		{do: func(ctx context.Context, i int) error {
			v := visitors[i]
			visitors[i], v.resumes = visitor{}, true
			return do(ctx, i, v)
		}},
	}
}

func (b *bencher) byGroupKey(ctx context.Context, s *server, i int, v visitor) error {
	id := individualID(byGroupKey, i)
	return s.provisionWithKey(ctx, id, b.fleet.derived(id), v)
}

func (b *bencher) withCertificate(ctx context.Context, s *server, i int, v visitor) error {
	leaf := b.fleet.byCA[i]
	v.certificate = presented(leaf)
	return s.provisionWithCertificate(ctx, leaf.Certificate.Subject.CommonName, v)
}

// withTPM lets devices be challenged, solve that by themselves, and answer.
func (b *bencher) withTPM(s *server, hangUp bool) []step {
	devices := make([]*tpmDevice, b.total())
	return []step{
		{do: func(ctx context.Context, i int) (err error) {
			id := individualID(byTPM, i%b.fleet.pool(s.size))
			devices[i], err = s.challenge(ctx, id, b.fleet.tpm, hangUp)
			return err
		}},
		{apart: true, do: func(_ context.Context, i int) error { return devices[i].solve() }},
		{do: func(ctx context.Context, i int) error {
			d := devices[i]
			devices[i] = nil
			return d.answer(ctx, hangUp)
		}},
	}
}

func groupKeyIDs(*bencher, *server) func(int) string {
	return func(i int) string { return individualID(byGroupKey, i) }
}

func caIDs(b *bencher, _ *server) func(int) string {
	return func(i int) string { return b.fleet.byCA[i].Certificate.Subject.CommonName }
}

// individualIDs names devices that have enrollments of their own. There may be
// fewer than numbers, but never fewer than in a round: they are forgotten after
// it and come again.
func individualIDs(way string) func(*bencher, *server) func(int) string {
	return func(b *bencher, s *server) func(int) string {
		return func(i int) string { return individualID(way, i%b.fleet.pool(s.size)) }
	}
}

// forget makes the devices of a round leave, so that all rounds find the same
// service.
func (s *server) forget(id func(number int) string) step {
	return step{apart: true, do: func(ctx context.Context, i int) error {
		if err := s.operator.DeleteRegistrationState(ctx, id(i), ""); err != nil {
			return err
		}
		return s.hub.DeleteDevice(ctx, device.ID(id(i)), "")
	}}
}
