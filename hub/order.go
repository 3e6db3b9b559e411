package hub

import "encoding/json"

// maxHeld bounds the changes that wait for the one before them.
const maxHeld = 16

// A desiredChange is a patch of a device's desired properties, and the version that
// it makes.
type desiredChange struct {
	version int64
	patch   json.RawMessage
}

// An order puts the changes of one device's desired properties, which several
// servers make and tell of, into the order of their versions. Its zero value knows
// of no version that the device has, and holds back what comes until it is learnt.
type order struct {
	told int64 // the device knows everything up to this version
	due  int64 // the newest version of which is known that there is one
	held map[int64]json.RawMessage
}

// take returns what the device is to be told when a change becomes known: nothing,
// the change, or it and those that were waiting for it.
func (o *order) take(c desiredChange) []desiredChange {
	switch {
	case c.version <= o.told:
		return nil
	case c.version == o.told+1:
		o.told = c.version
		return append([]desiredChange{c}, o.release()...)
	}
	o.expect(c.version)
	if len(o.held) < maxHeld {
		if o.held == nil {
			o.held = make(map[int64]json.RawMessage)
		}
		o.held[c.version] = c.patch
	}
	return nil
}

// learnt is take for a whole twin that the device has, or is about to ask for.
func (o *order) learnt(version int64) []desiredChange {
	if version <= o.told {
		return nil
	}
	o.told = version
	return o.release()
}

// expect says that there is a version.
func (o *order) expect(version int64) { o.due = max(o.due, version) }

// behind reports whether there are changes that the device was not told of.
func (o *order) behind() bool { return o.due > o.told }

// release takes out of what is held what comes next, and drops what came before.
func (o *order) release() (now []desiredChange) {
	for version := range o.held {
		if version <= o.told {
			delete(o.held, version)
		}
	}
	for {
		patch, ok := o.held[o.told+1]
		if !ok {
			return now
		}
		o.told++
		delete(o.held, o.told)
		now = append(now, desiredChange{o.told, patch})
	}
}
