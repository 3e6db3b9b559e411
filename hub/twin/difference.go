package twin

import (
	"bytes"
	"encoding/json"
)

// Difference returns the patch that makes next of old when it is merged: what was
// changed or added, and null for what is gone. Both are texts of the section as
// Merge and Replace return them. It is {} where they say the same.
func (s Section) Difference(old, next json.RawMessage) (json.RawMessage, error) {
	was, err := s.parse(old)
	if err != nil {
		return nil, err
	}
	is, err := s.parse(next)
	if err != nil {
		return nil, err
	}
	return appendValue(nil, difference(was, is)), nil
}

func difference(was, is *object) *object {
	patch := newObject()
	for _, name := range is.names {
		now := is.members[name]
		before, there := was.members[name]
		inner, ok := now.(*object)
		outer, both := before.(*object)
		switch {
		case there && ok && both:
			if d := difference(outer, inner); len(d.names) > 0 {
				patch.set(name, d)
			}
		case !there || !same(before, now):
			patch.set(name, now)
		}
	}
	for _, name := range was.names {
		if _, there := is.members[name]; !there {
			patch.set(name, nil)
		}
	}
	return patch
}

func same(a, b any) bool { return bytes.Equal(appendValue(nil, a), appendValue(nil, b)) }
