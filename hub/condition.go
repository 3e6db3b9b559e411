package hub

import (
	"encoding/json"
	"mime"
	"strings"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/query"
)

// A condition says which messages a route is for. It may be used at the same
// time.
type condition struct{ *query.Condition }

// parseCondition reads the condition of a route. The error is of kind
// errs.Invalid and says where the text goes wrong.
func parseCondition(text string) (condition, error) {
	if len(text) > maxCondition {
		return condition{}, invalidRouting("condition has more than %d characters", maxCondition)
	}
	parsed, err := query.ParseRoute(text)
	if err != nil {
		return condition{}, err
	}
	var refusal *errs.Error
	parsed.Reads(func(p query.Path) {
		name := p[0].Name
		switch {
		case strings.EqualFold(name, "$twin"):
			refusal = errs.New(errs.Invalid, 0, "condition: $twin is not offered: a route decides by the message alone")
		case strings.HasPrefix(name, "$") && !strings.EqualFold(name, "$body") && systemName(name) == "":
			refusal = errs.New(errs.Invalid, 0, "condition: there is no system property %s; application properties go by their names, without a dollar sign", name)
		}
	})
	if refusal != nil {
		return condition{}, refusal
	}
	return condition{parsed}, nil
}

const maxCondition = 4096

// systemNames are the system properties as conditions have them, in lower case and
// without the dollar sign, and how a message has them.
var systemNames = map[string]string{
	"messageid": "message-id", "correlationid": "correlation-id", "userid": "user-id", "to": "to",
	"expirytimeutc": "absolute-expiry-time", "absoluteexpirytime": "absolute-expiry-time",
	"creationtimeutc": "creation-time-utc",
	"contenttype":     "content-type", "contentencoding": "content-encoding", "outputname": "output-name",
	"connectiondeviceid": connectionDeviceID, "connectionmoduleid": "connection-module-id",
	"connectionauthmethod": connectionAuthMethod, "connectionauthgenerationid": connectionGenerationID,
	"enqueuedtime": enqueuedTime, "messagesource": messageSource,
	"dt-dataschema": "dt-dataschema", "dt-subject": "dt-subject", "dt-interface-id": "dt-interface-id",
}

// systemName is how a message has the system property that a condition calls name:
// by the name in events, as $iothub-connection-device-id or $content-type, or by
// that in SDKs, as $connectionDeviceId. It is empty where there is none.
func systemName(name string) string {
	name = strings.TrimPrefix(strings.ToLower(strings.TrimPrefix(name, "$")), "iothub-")
	if known, ok := systemNames[name]; ok {
		return known
	}
	for _, known := range systemNames {
		if known == name {
			return known
		}
	}
	return ""
}

// holds reports whether the condition is true of a message.
func (c condition) holds(m *Message) bool { return c.Holds(&messageDocument{Message: m}) }

// HoldsFor reports whether the condition of a route is true of a message. The
// error is that of a text that is none.
func HoldsFor(text string, m *Message) (bool, error) {
	c, err := parseCondition(text)
	if err != nil {
		return false, err
	}
	return c.holds(m), nil
}

// A messageDocument is a message as conditions see it. The body is one only where
// the message says that it is JSON, in UTF-8.
type messageDocument struct {
	*Message
	body   json.RawMessage
	judged bool
}

// Lookup implements query.Document.
func (d *messageDocument) Lookup(at query.Path) query.Value {
	name := at[0].Name
	if strings.EqualFold(name, "$body") {
		if !d.judged {
			d.judged = true
			if d.isJSON() && json.Valid(d.Body) {
				d.body = d.Body
			}
		}
		if d.body == nil {
			return query.Value{}
		}
		return query.Find(d.body, at[1:], true)
	}
	if len(at) > 1 {
		return query.Value{}
	}
	if strings.HasPrefix(name, "$") {
		return textOf(d.System, systemName(name))
	}
	return textOf(d.Properties, name)
}

// textOf is a property; names that differ in case only are taken where none is
// equal.
func textOf(properties map[string]string, name string) query.Value {
	if value, ok := properties[name]; ok {
		return query.TextValue(value)
	}
	for n, value := range properties {
		if strings.EqualFold(n, name) {
			return query.TextValue(value)
		}
	}
	return query.Value{}
}

// isJSON reports whether the message says that its body is JSON in UTF-8.
func (d *messageDocument) isJSON() bool {
	media, parameters, err := mime.ParseMediaType(d.System["content-type"])
	if err != nil || media != "application/json" {
		return false
	}
	encoding := d.System["content-encoding"]
	if encoding == "" {
		encoding = parameters["charset"]
	}
	return strings.EqualFold(encoding, "utf-8") || strings.EqualFold(encoding, "utf8")
}
