package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A Stamp says when something was written, and in which version of its section;
// zero leaves the version out.
type Stamp struct {
	Updated time.Time
	Version int64
}

const (
	lastUpdated        = "$lastUpdated"
	lastUpdatedVersion = "$lastUpdatedVersion"
)

// Metadata returns the $metadata of a section that was written as before and is
// written as after now. The members of an object are objects of $metadata in turn;
// an array is one value. What did not change keeps what metadata says of it or,
// where that says nothing, the stamp was. An object changes with what is in it.
// Both texts are as [Section.Merge] and [Section.Replace] return them; metadata
// is what this function returned, or nil.
func (s Section) Metadata(metadata json.RawMessage, was Stamp, before, after json.RawMessage, now Stamp) (json.RawMessage, error) {
	old, err := s.parse(before)
	if err != nil {
		return nil, err
	}
	next, err := s.parse(after)
	if err != nil {
		return nil, err
	}
	var known *object
	if metadata != nil {
		if known, err = parseMetadata(metadata); err != nil {
			return nil, err
		}
	}
	node, _ := restamp(known, was, old, next, now)
	return appendValue(nil, node), nil
}

// WrittenAtOnce returns the $metadata of a section all of which has one stamp.
func (s Section) WrittenAtOnce(section json.RawMessage, at Stamp) (json.RawMessage, error) {
	o, err := s.parse(section)
	if err != nil {
		return nil, err
	}
	return appendValue(nil, stamped(o, at)), nil
}

// Document returns a section as clients read it: its properties, and behind them
// $metadata and $version. Where metadata is nil, all of the section was written at
// the stamp; only desired properties say in which version. properties is what
// [Section.Merge] and [Section.Replace] return.
func (s Section) Document(properties, metadata json.RawMessage, written Stamp) json.RawMessage {
	if metadata == nil {
		at := written
		if s == Reported {
			at.Version = 0
		}
		var err error
		if metadata, err = s.WrittenAtOnce(properties, at); err != nil {
			metadata = json.RawMessage("{}") // it was checked when it was written
		}
	}
	inside := bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(properties), []byte("}")))
	document := append(make([]byte, 0, len(inside)+len(metadata)+40), inside...)
	if len(inside) > 1 {
		document = append(document, ',')
	}
	document = append(append(document, `"$metadata":`...), metadata...)
	return append(strconv.AppendInt(append(document, `,"$version":`...), written.Version, 10), '}')
}

// restamp returns the metadata of an object and whether anything in it changed.
func restamp(known *object, was Stamp, before, after *object, now Stamp) (node *object, changed bool) {
	members := newObject()
	for _, name := range after.names {
		value := after.members[name]
		old, there := before.members[name]
		inner, isObject := value.(*object)
		outer, wasObject := old.(*object)
		of := member(known, name)
		switch {
		case isObject && wasObject:
			below, differs := restamp(of, was, outer, inner, now)
			members.set(name, below)
			changed = changed || differs
		case !there || !same(old, value):
			members.set(name, stamped(value, now))
			changed = true
		case of != nil:
			members.set(name, of)
		default:
			members.set(name, stamped(value, was))
		}
	}
	for _, name := range before.names {
		if _, there := after.members[name]; !there {
			changed = true
		}
	}
	switch {
	case changed:
		node = now.node()
	case known != nil:
		node = known.stamp()
	default:
		node = was.node()
	}
	for _, name := range members.names {
		node.set(name, members.members[name])
	}
	return node, changed
}

// stamp is a node of metadata without what is below it.
func (o *object) stamp() *object {
	node := newObject()
	for _, name := range []string{lastUpdated, lastUpdatedVersion} {
		if v, ok := o.members[name]; ok {
			node.set(name, v)
		}
	}
	return node
}

// member is the metadata of a member, or nil.
func member(known *object, name string) *object {
	if known == nil {
		return nil
	}
	o, _ := known.members[name].(*object)
	return o
}

// stamped is the metadata of a value all of which has one stamp.
func stamped(value any, at Stamp) *object {
	node := at.node()
	if o, ok := value.(*object); ok {
		for _, name := range o.names {
			node.set(name, stamped(o.members[name], at))
		}
	}
	return node
}

func (s Stamp) node() *object {
	o := newObject()
	o.set(lastUpdated, s.Updated.UTC().Format("2006-01-02T15:04:05.9999999Z"))
	if s.Version != 0 {
		o.set(lastUpdatedVersion, json.Number(strconv.FormatInt(s.Version, 10)))
	}
	return o
}

// parseMetadata reads what appendValue wrote of a node.
func parseMetadata(text json.RawMessage) (*object, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the metadata is not a JSON object")
	}
	return parseNode(d, 0)
}

func parseNode(d *json.Decoder, depth int) (*object, error) {
	if depth > MaxDepth+1 {
		return nil, errors.New("the metadata is deeper than a section")
	}
	o := newObject()
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("the metadata: %w", err)
		}
		v, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("the metadata: %w", err)
		}
		var value any = v
		switch v {
		case json.Delim('['):
			return nil, errors.New("the metadata has an array")
		case json.Delim('{'):
			if value, err = parseNode(d, depth+1); err != nil {
				return nil, err
			}
		}
		o.set(name.(string), value)
	}
	_, err := d.Token() // the closing brace
	return o, err
}
