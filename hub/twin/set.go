package twin

import "encoding/json"

// Set returns what the section becomes when a value takes the place of what is at
// a path, or of all of it where the path is empty. What is on the way and no object
// becomes one; null removes. The result is checked as by [Section.Replace].
func (s Section) Set(old json.RawMessage, path []string, value json.RawMessage) (json.RawMessage, error) {
	if len(path) == 0 {
		return s.Replace(value)
	}
	was, err := s.parse(old)
	if err != nil {
		return nil, err
	}
	// The value is read where it is going to be, so that its depth counts.
	text := append(json.RawMessage(nil), value...)
	for i := len(path) - 1; i >= 0; i-- {
		text = append(append(append(appendString([]byte{'{'}, path[i]), ':'), text...), '}')
	}
	patch, err := s.parse(text)
	if err != nil {
		return nil, err
	}
	for at := was; ; {
		name := path[0]
		if path = path[1:]; len(path) == 0 {
			at.set(name, patch.members[name])
			break
		}
		next, ok := at.members[name].(*object)
		if !ok {
			next = newObject()
			at.set(name, next)
		}
		at, patch = next, patch.members[name].(*object)
	}
	was.removeNulls()
	return s.encode(was)
}
