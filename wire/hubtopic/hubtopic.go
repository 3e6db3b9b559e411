// Package hubtopic reads and writes what IoT Hub's MQTT device API puts into user
// names and topics: who connects, what a message is for, and its property bag.
package hubtopic

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// The topic filters that devices subscribe to, besides that of [CloudToDevice].
const (
	TwinResponses = "$iothub/twin/res/#"
	TwinDesired   = "$iothub/twin/PATCH/properties/desired/#"
	Methods       = "$iothub/methods/POST/#"
)

// CloudToDevice is the filter for messages to a device.
func CloudToDevice(deviceID string) string { return "devices/" + deviceID + deviceBoundPart + "#" }

// ToModule are the filters for messages to a module, as clients spell them: one for
// each kind, or one for all.
func ToModule(deviceID, moduleID string) []string {
	module := "devices/" + deviceID + "/modules/" + moduleID + "/"
	return []string{module + "messages/devicebound/#", module + "inputs/#", module + "#"}
}

// A Username is what a client says of itself in its CONNECT:
// {host}/{deviceId}[/{moduleId}]/?api-version=…&DeviceClientType=… .
type Username struct {
	Host     string // as the client spelled it, perhaps with a port
	DeviceID string
	ModuleID string // empty for a device
	// Parameters are decoded, by name: api-version, DeviceClientType, model-id and
	// whatever else there is.
	Parameters map[string]string
}

// ParseUsername reads a user name in every form that clients have: parameters
// behind "/?", behind "?", or bare behind a slash.
func ParseUsername(s string) (u Username, err error) {
	host, rest, ok := strings.Cut(s, "/")
	if !ok || host == "" {
		return u, errors.New("the user name is not {host}/{deviceId}/?api-version={version}")
	}
	u.Host = host
	ids, parameters := rest, ""
	// IDs may have a question mark in them; a parameter that every client sends
	// says where they end.
	switch i := strings.Index(rest, "/?"); {
	case i >= 0:
		ids, parameters = rest[:i], rest[i+2:]
	case strings.Contains(rest, "/api-version="):
		i := strings.Index(rest, "/api-version=")
		ids, parameters = rest[:i], rest[i+1:]
	case strings.Contains(rest, "?api-version="):
		i := strings.Index(rest, "?api-version=")
		ids, parameters = rest[:i], rest[i+1:]
	}
	ids = strings.TrimSuffix(ids, "/")
	u.DeviceID, u.ModuleID, ok = strings.Cut(ids, "/")
	switch {
	case u.DeviceID == "":
		return u, errors.New("the user name has no device ID")
	case ok && u.ModuleID == "", strings.Contains(u.ModuleID, "/"):
		return u, errors.New("the user name has more than a device ID and a module ID")
	}
	u.Parameters, err = parameterBag(parameters)
	return u, err
}

// parameterBag reads k=v&k=v, percent-encoded; the last of a name counts.
func parameterBag(s string) (map[string]string, error) {
	bag := make(map[string]string)
	for member := range strings.SplitSeq(s, "&") {
		if member == "" {
			continue
		}
		name, value, _ := strings.Cut(member, "=")
		name, err := url.PathUnescape(name)
		if err != nil {
			return nil, fmt.Errorf("a name in the property bag: %w", err)
		}
		if bag[name], err = url.PathUnescape(value); err != nil {
			return nil, fmt.Errorf("the value of %.50q in the property bag: %w", name, err)
		}
	}
	return bag, nil
}

// An Operation is what a device publishes for.
type Operation int

// The operations.
const (
	Telemetry    Operation = iota + 1
	TwinGet                // the device asks for its twin
	TwinPatch              // it reports properties
	MethodAnswer           // it answers a direct method
)

// A Request is a topic that a device publishes to.
type Request struct {
	Operation Operation
	// Of Telemetry: who sends, and the message's properties.
	DeviceID, ModuleID string
	Properties         map[string]string
	// Of all others: the request ID, to be echoed byte for byte.
	RequestID string
	// Of TwinPatch: the version that is meant to be changed, or nil.
	Version *int64
	// Of MethodAnswer: the device's status.
	Status int
}

// The beginnings of topics.
const (
	twinGet      = "$iothub/twin/GET/"
	twinPatch    = "$iothub/twin/PATCH/properties/reported/"
	methodAnswer = "$iothub/methods/res/"
	eventsPart   = "/messages/events"
	// deviceBoundPart is in the middle of one.
	deviceBoundPart = "/messages/devicebound/"
)

// ParseRequest reads a topic. An error means that devices do not publish there.
func ParseRequest(topic string) (r Request, err error) {
	if rest, ok := strings.CutPrefix(topic, "devices/"); ok {
		return parseTelemetry(topic, rest)
	}
	path, query, _ := strings.Cut(topic, "?")
	switch {
	case path == twinGet:
		r.Operation = TwinGet
	case path == twinPatch:
		r.Operation = TwinPatch
	case strings.HasPrefix(path, methodAnswer):
		r.Operation = MethodAnswer
		status := strings.TrimSuffix(path[len(methodAnswer):], "/")
		if r.Status, err = strconv.Atoi(status); err != nil {
			return r, fmt.Errorf("the topic %.100q: the status is not a number", topic)
		}
	default:
		return r, unknown(topic)
	}
	for member := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(member, "=")
		switch name {
		case "$rid":
			r.RequestID = value
		case "$version":
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return r, fmt.Errorf("the topic %.100q: $version is not a number", topic)
			}
			r.Version = &v
		}
	}
	if r.RequestID == "" || strings.ContainsAny(r.RequestID, "/#+$") {
		return r, fmt.Errorf("the topic %.100q names no $rid", topic)
	}
	return r, nil
}

func unknown(topic string) error {
	return fmt.Errorf("the topic %.100q is not one that devices publish to", topic)
}

// parseTelemetry reads {d}/messages/events[/[?]bag[/]] and the same of a module,
// {d}/modules/{m}/messages/events….
func parseTelemetry(topic, rest string) (r Request, err error) {
	i := strings.Index(rest, eventsPart)
	if i < 0 {
		return r, unknown(topic)
	}
	sender, bag := rest[:i], rest[i+len(eventsPart):]
	if bag != "" && bag[0] != '/' {
		return r, unknown(topic)
	}
	r.Operation, r.DeviceID = Telemetry, sender
	if d, m, ok := strings.Cut(sender, "/modules/"); ok {
		r.DeviceID, r.ModuleID = d, m
		if m == "" || strings.Contains(m, "/") {
			return r, unknown(topic)
		}
	}
	if r.DeviceID == "" || strings.Contains(r.DeviceID, "/") {
		return r, unknown(topic)
	}
	bag = strings.TrimPrefix(bag, "/")
	bag = strings.TrimSuffix(strings.TrimPrefix(bag, "?"), "/")
	if r.Properties, err = parameterBag(bag); err != nil {
		return r, fmt.Errorf("the topic %.100q: %w", topic, err)
	}
	return r, nil
}

// systemNames are the system properties of a bag, with the names they have in a
// message.
var systemNames = map[string]string{
	"$.mid": "message-id", "$.cid": "correlation-id", "$.uid": "user-id", "$.to": "to", "$.exp": "absolute-expiry-time",
	"$.ct": "content-type", "$.ce": "content-encoding", "$.on": "output-name", "$.ctime": "creation-time-utc",
	"$.ifid": "interface-id", "$.sub": "dt-subject", "$.schema": "message-schema",
}

// Split takes the system properties out of a bag, by their names in a message; what
// is left in the bag are those of the application. System properties that devices
// have no say in, and those that nobody knows, are left out.
func Split(bag map[string]string) (system, application map[string]string) {
	system = make(map[string]string)
	for name, value := range bag {
		if !strings.HasPrefix(name, "$.") {
			continue
		}
		if known, ok := systemNames[name]; ok {
			system[known] = value
		}
		delete(bag, name)
	}
	return system, bag
}

// TwinResponse is the topic of an answer to a TwinGet or TwinPatch. version is of
// the reported properties after a patch, and nil otherwise. Clients take it apart
// in many ways: $rid comes first, $version last, and nothing else.
func TwinResponse(status int, requestID string, version *int64) string {
	topic := "$iothub/twin/res/" + strconv.Itoa(status) + "/?$rid=" + requestID
	if version != nil {
		topic += "&$version=" + strconv.FormatInt(*version, 10)
	}
	return topic
}

// Desired is the topic that tells of changed desired properties.
func Desired(version int64) string {
	return "$iothub/twin/PATCH/properties/desired/?$version=" + strconv.FormatInt(version, 10)
}

// MethodCall is the topic of a direct method's call.
func MethodCall(name, requestID string) string {
	return "$iothub/methods/POST/" + url.PathEscape(name) + "/?$rid=" + requestID
}
