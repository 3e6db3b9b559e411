package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub/query"
)

// A Finder finds twins for queries. Identities without a twin do not exist for
// it, and those that it returns have no keys.
type Finder interface {
	// ScanTwins returns up to limit of a hub's twins that are in a part of it, in the
	// order of the bytes of the IDs of the devices and then of the modules. It reads
	// no more than the members that are wanted; the others are zero.
	ScanTwins(ctx context.Context, hub string, of Part, wanted Members, limit int) ([]Found, error)
	// TwinsAt returns those of the places that have a twin, in any order, with the
	// members that are wanted. All are of one hub, and all devices or all modules.
	TwinsAt(ctx context.Context, at []Place, wanted Members) ([]Found, error)
	// TwinEntries returns up to limit entries of the index with a path and values up
	// to high, which is included, that come after an entry, in their order. Some
	// may be of twins that have no such value any more.
	TwinEntries(ctx context.Context, path int64, after TwinEntry, high []byte, limit int) ([]TwinEntry, error)
	// CountTwinEntries counts what TwinEntries would return.
	CountTwinEntries(ctx context.Context, path int64, after TwinEntry, high []byte, limit int) (int, error)
	// About returns what is known of places beside what is written of them. Those
	// of which nothing is known are left out.
	About(ctx context.Context, at []Place, now time.Time) (map[Place]About, error)
	// UnindexedTwins returns up to limit places with twins whose values are not in the
	// index, because an older program wrote them. A Change indexes one.
	UnindexedTwins(ctx context.Context, limit int) ([]Place, error)
}

// A Part is a part of a hub's twins: of devices, or of modules, whose device IDs
// are from First to Last, both included, and that come after a place.
type Part struct {
	Modules     bool
	First, Last device.ID
	After       Place // of which the hub does not count
}

// Members says what is wanted of a twin and its identity. The places, whether a
// device is disabled or for IoT Edge, its parents, the model, and the versions and
// times of a twin are not long and always there.
type Members struct {
	Identity          bool // all else that is known of the identity, but keys
	Tags              bool
	Desired, Reported bool
	Metadata          bool // of the properties that are wanted
	Configurations    bool
}

// AllMembers wants all.
var AllMembers = Members{true, true, true, true, true, true}

// Found is an identity with its twin.
type Found struct {
	Identity *Identity
	Twin     *Twin
	About    About // where it was asked for
}

// About is what is known of a device or a module that nobody writes.
type About struct {
	Presence
	Waiting int // messages in the queue that have not expired
}

// A TwinEntry is where an index has a twin: under a value, as package query encodes
// them.
type TwinEntry struct {
	Value      []byte
	ID, Module device.ID
}

// An IndexedValue is a value of a twin that its index has, and the number of the
// path that it is at.
type IndexedValue struct {
	Path  int64
	Value []byte
}

// IndexChange returns the entries that a twin's index lacks and those that it has
// no use for when the identity and the twin become others. Either is nil where
// there is none, or where it is not in the index.
//
// What is indexed are the values in tags, properties and configurations that are
// no objects or arrays, a module's ID, the model, and what few devices are:
// disabled, for IoT Edge, or children of such a device.
func IndexChange(was *Identity, wasTwin *Twin, is *Identity, isTwin *Twin) (add, remove []IndexedValue) {
	before, after := indexedParts(was, wasTwin), indexedParts(is, isTwin)
	var old, now []IndexedValue
	for i := range before.sections {
		// What a section had it has, when it is the same; most writes change one.
		if before.at != nil && after.at != nil && bytes.Equal(before.sections[i], after.sections[i]) {
			continue
		}
		old, now = before.appendSection(old, i), after.appendSection(now, i)
	}
	old, now = before.appendIdentity(old), after.appendIdentity(now)
	return difference(now, old), difference(old, now)
}

// sectionNames are the paths of the parts of a twin that are indexed.
var sectionNames = [...]string{"tags", "properties.desired", "properties.reported", "configurations"}

// indexParts are the parts of a twin that its index is made of.
type indexParts struct {
	at       *Identity // nil where there is nothing
	model    string
	sections [len(sectionNames)]json.RawMessage
}

func indexedParts(d *Identity, t *Twin) indexParts {
	if d == nil || t == nil {
		return indexParts{}
	}
	return indexParts{d, t.ModelID, [...]json.RawMessage{t.Tags, t.Desired, t.Reported, t.Configurations}}
}

func (p indexParts) appendSection(values []IndexedValue, i int) []IndexedValue {
	if p.at == nil {
		return values
	}
	query.Leaves(p.sections[i], sectionNames[i], func(key string, v query.Value) {
		values = p.append(values, key, v)
	})
	return values
}

func (p indexParts) appendIdentity(values []IndexedValue) []IndexedValue {
	if p.at == nil {
		return values
	}
	if p.at.Module != "" {
		values = p.append(values, "moduleId", query.TextValue(string(p.at.Module)))
	}
	if p.model != "" {
		values = p.append(values, "modelId", query.TextValue(p.model))
	}
	if p.at.Disabled {
		values = p.append(values, "status", query.TextValue(statusDisabled))
	}
	if p.at.IoTEdge {
		values = p.append(values, "capabilities.iotEdge", query.BoolValue(true))
	}
	for _, scope := range p.at.ParentScopes() {
		values = p.append(values, "parentScopes", query.TextValue(scope))
	}
	return values
}

func (p indexParts) append(values []IndexedValue, key string, v query.Value) []IndexedValue {
	if encoded := query.Encode(v); encoded != nil {
		values = append(values, IndexedValue{pathNumber(p.at.Hub, p.at.Module != "", key), encoded})
	}
	return values
}

// difference returns what is in a and not in b, each once.
func difference(a, b []IndexedValue) []IndexedValue {
	order := func(v, w IndexedValue) int {
		return cmp.Or(cmp.Compare(v.Path, w.Path), bytes.Compare(v.Value, w.Value))
	}
	same := func(v, w IndexedValue) bool { return order(v, w) == 0 }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, order)
	slices.SortFunc(b, order)
	return slices.DeleteFunc(slices.CompactFunc(a, same), func(v IndexedValue) bool {
		_, found := slices.BinarySearchFunc(b, v, order)
		return found
	})
}

// pathNumber is the number of a path of a hub's devices, or modules. Two may have
// the same: an index names too many then, and never too few.
func pathNumber(hub string, modules bool, key string) int64 {
	h := fnv.New64a()
	h.Write([]byte(hub))
	if modules {
		h.Write([]byte{1})
	} else {
		h.Write([]byte{0})
	}
	h.Write([]byte(key))
	return int64(h.Sum64())
}

// indexedPath returns the path under which the index has everything that a term
// speaks of, and false where it may lack something.
func indexedPath(modules bool, t query.Term) (string, bool) {
	key, ok := t.Path.Key()
	if !ok {
		return "", false
	}
	if t.Element {
		return key, key == "parentScopes"
	}
	switch key {
	case "moduleId":
		return key, modules
	case "modelId":
		return key, every(t.Ranges, func(r query.Range) bool { return r.Low.Kind() == query.String && r.Low.Text() != "" })
	case "status":
		return key, !modules && every(t.Ranges, func(r query.Range) bool { return r.Low == r.High && r.Low.Text() == statusDisabled })
	case "capabilities.iotEdge":
		return key, every(t.Ranges, func(r query.Range) bool { return r.Low == r.High && r.Low.IsTrue() })
	}
	for _, section := range sectionNames {
		if rest, ok := strings.CutPrefix(key, section+"."); ok {
			return key, !strings.HasPrefix(rest, "$") // what the hub makes of a section
		}
	}
	return "", false
}

func every(ranges []query.Range, is func(query.Range) bool) bool {
	for _, r := range ranges {
		if !is(r) {
			return false
		}
	}
	return true
}
