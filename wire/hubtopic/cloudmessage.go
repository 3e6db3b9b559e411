package hubtopic

import (
	"maps"
	"slices"
	"strings"
)

// Destination is the system property "to" of a message to a device.
func Destination(deviceID string) string { return "/devices/" + deviceID + "/messages/deviceBound" }

// bagOrder are the system properties of a message to a device that a topic has, in
// order, by their names in a message.
var bagOrder = [][2]string{
	{"message-id", "mid"}, {"to", "to"}, {"correlation-id", "cid"}, {"user-id", "uid"}, {"absolute-expiry-time", "exp"},
	{"content-type", "ct"}, {"content-encoding", "ce"},
}

// CloudMessage is the topic of a message to a device, with its system properties,
// by their names in a message, and those of the application. Clients take the bag
// apart in many ways: it begins with a system property, whose name begins with
// "%24.", and nothing else in it is as it is in a topic but letters, digits and
// "-_.~".
func CloudMessage(deviceID string, system, application map[string]string) string {
	var b strings.Builder
	b.WriteString("devices/" + deviceID + deviceBoundPart)
	separator := ""
	member := func(name, value string) {
		b.WriteString(separator + name + "=" + escape(value))
		separator = "&"
	}
	for _, p := range bagOrder {
		value := system[p[0]]
		if p[1] == "to" && value == "" {
			value = Destination(deviceID)
		}
		if value != "" {
			member("%24."+p[1], value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(application)) {
		member(escape(name), application[name])
	}
	return b.String()
}
