package roster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// readLines reads one enrollment a line, as the service API writes them.
func (r Reader) readLines(in *bufio.Reader, roster *Roster) error {
	members := membersOf(dpsjson.IndividualEnrollment{})
	if r.Kind == enroll.Group {
		members = membersOf(dpsjson.EnrollmentGroup{})
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, dpsjson.MaxBody+2) // and the end of the line
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		e, err := r.Decode(line)
		if err == nil {
			err = onlyKnown(line, members)
		}
		if err != nil {
			roster.fault(n, e.RegistrationID, "%s", err)
			continue
		}
		r.Certificates.Complete(e.Attestation)
		roster.Entries = append(roster.Entries, Entry{e, n})
	}
	if err := lines.Err(); err == bufio.ErrTooLong {
		return fmt.Errorf("has a line of more than %d bytes, which is no enrollment", dpsjson.MaxBody)
	} else if err != nil {
		return err
	}
	return nil
}

// membersOf returns the names of a body's members in lower case.
func membersOf(body any) map[string]bool {
	names := map[string]bool{}
	t := reflect.TypeOf(body)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names[strings.ToLower(name)] = true
	}
	return names
}

// onlyKnown refuses members that the service would pass over: a misspelled one is
// not to be lost.
func onlyKnown(line []byte, known map[string]bool) error {
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if text, ok := name.(string); ok && !known[strings.ToLower(text)] {
			return fmt.Errorf("has a member %.60q, which is not known", text)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	return nil
}

// A Writer writes a roster as JSON Lines.
type Writer struct{ to io.Writer }

// NewWriter returns a writer to w.
func NewWriter(w io.Writer) Writer { return Writer{w} }

// Write writes one enrollment, in the shape of its kind, without what belongs to
// the service it comes from.
func (w Writer) Write(shape any) error {
	line, err := dpsjson.Encode(shape)
	if err != nil {
		return err
	}
	_, err = w.to.Write(append(line, '\n'))
	return err
}

// Portable returns what of an enrollment another service can take: all but the
// entity tag, the times and the state of the registration.
func Portable(e Enrollment) Enrollment {
	e.ETag, e.RegistrationState = "", nil
	e.CreatedDateTimeUTC, e.LastUpdatedDateTimeUTC = dpsjson.Time{}, dpsjson.Time{}
	return e
}
