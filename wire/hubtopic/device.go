package hubtopic

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// String writes the user name as ParseUsername reads it, parameters by name.
func (u Username) String() string {
	s := u.Host + "/" + u.DeviceID
	if u.ModuleID != "" {
		s += "/" + u.ModuleID
	}
	return s + "/?" + bag(u.Parameters)
}

// bag writes a property bag, by name.
func bag(properties map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(name) + "=" + escape(properties[name]))
	}
	return b.String()
}

// escape leaves nothing as it is that has a meaning in a bag or a topic.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// Join is the opposite of Split: the bag of a message with these properties. The
// error names one that a bag has no place for.
func Join(system, application map[string]string) (map[string]string, error) {
	joined := make(map[string]string, len(system)+len(application))
	for name, value := range application {
		if name == "" || strings.HasPrefix(name, "$.") {
			return nil, fmt.Errorf("%.50q is no name for a property", name)
		}
		joined[name] = value
	}
	for short, name := range systemNames {
		if value, ok := system[name]; ok {
			joined[short] = value
		}
	}
	return joined, nil
}

// Events is the topic of a device's telemetry with a property bag.
func Events(deviceID string, properties map[string]string) string {
	return "devices/" + deviceID + eventsPart + "/" + bag(properties)
}

// GetTwin is the topic by which a device asks for its twin.
func GetTwin(requestID string) string { return twinGet + "?$rid=" + requestID }

// PatchReported is the topic by which a device reports properties; version is
// what it means to change, or nil for whatever is there.
func PatchReported(requestID string, version *int64) string {
	topic := twinPatch + "?$rid=" + requestID
	if version != nil {
		topic += "&$version=" + strconv.FormatInt(*version, 10)
	}
	return topic
}

// AnswerMethod is the topic of a device's answer to a direct method.
func AnswerMethod(status int, requestID string) string {
	return methodAnswer + strconv.Itoa(status) + "/?$rid=" + requestID
}

// An Occasion is what a hub publishes to a device for.
type Occasion int

// The occasions.
const (
	TwinAnswered   Occasion = iota + 1 // to a TwinGet or a TwinPatch
	DesiredChanged                     // the payload is a merge patch
	MethodCalled
	MessageSent // to the device, by an operator
)

// A Delivery is a topic that a hub publishes to.
type Delivery struct {
	Occasion  Occasion
	RequestID string // of TwinAnswered and MethodCalled
	Status    int    // of TwinAnswered
	Version   *int64 // of DesiredChanged; of TwinAnswered after a TwinPatch
	Method    string // of MethodCalled
	// Of MessageSent: whom it is for, and its property bag.
	DeviceID, ModuleID string
	Properties         map[string]string
}

// ParseDelivery reads a topic. An error means that nothing is known of it here.
func ParseDelivery(topic string) (d Delivery, err error) {
	if rest, ok := strings.CutPrefix(topic, "devices/"); ok {
		return parseMessageSent(topic, rest)
	}
	path, query, _ := strings.Cut(topic, "?")
	unknown := fmt.Errorf("the topic %.100q is not one that is known here", topic)
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(TwinResponses, "#")); ok {
		d.Occasion = TwinAnswered
		if d.Status, err = strconv.Atoi(strings.TrimSuffix(rest, "/")); err != nil {
			return d, unknown
		}
	} else if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(Methods, "#")); ok {
		d.Occasion = MethodCalled
		if d.Method, err = url.PathUnescape(strings.TrimSuffix(rest, "/")); err != nil || d.Method == "" {
			return d, unknown
		}
	} else if path == strings.TrimSuffix(TwinDesired, "#") {
		d.Occasion = DesiredChanged
	} else {
		return d, unknown
	}
	for member := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(member, "=")
		switch name {
		case "$rid":
			d.RequestID = value
		case "$version":
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return d, unknown
			}
			d.Version = &v
		}
	}
	if d.RequestID == "" && d.Occasion != DesiredChanged || d.Version == nil && d.Occasion == DesiredChanged {
		return d, unknown
	}
	return d, nil
}

// parseMessageSent reads {d}/messages/devicebound/bag, and the same of a module,
// {d}/modules/{m}/messages/devicebound/bag.
func parseMessageSent(topic, rest string) (d Delivery, err error) {
	to, bag, ok := strings.Cut(rest, deviceBoundPart)
	module := false
	d.Occasion = MessageSent
	d.DeviceID, d.ModuleID, module = strings.Cut(to, "/modules/")
	if !ok || d.DeviceID == "" || strings.Contains(d.DeviceID, "/") || module && d.ModuleID == "" || strings.Contains(d.ModuleID, "/") {
		return d, fmt.Errorf("the topic %.100q is not one that is known here", topic)
	}
	if d.Properties, err = parameterBag(bag); err != nil {
		return d, fmt.Errorf("the topic %.100q: %w", topic, err)
	}
	return d, nil
}
