package mqtt

import "fmt"

// Connect asks for a session (section 3.1). It is the first packet of a client.
type Connect struct {
	// Level is 4 for MQTT 3.1.1 and 3 for 3.1, whose protocol name is MQIsdp. Any
	// other decodes with nothing but it set: the answer is
	// UnacceptableProtocolVersion.
	Level        byte
	ClientID     string // at most 65535 bytes; may be empty
	CleanSession bool
	KeepAlive    uint16 // seconds; 0 for none
	Will         *Will  // nil for none
	Username     *string
	Password     []byte // nil for none
}

// A Will is what a server publishes for a client that it loses.
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// A ReturnCode answers a CONNECT (section 3.2.2.3).
type ReturnCode byte

// The return codes.
const (
	Accepted                    ReturnCode = 0
	UnacceptableProtocolVersion ReturnCode = 1
	IdentifierRejected          ReturnCode = 2
	ServerUnavailable           ReturnCode = 3
	BadUserNameOrPassword       ReturnCode = 4
	NotAuthorized               ReturnCode = 5
)

var codeNames = [...]string{
	"connection accepted", "unacceptable protocol version", "identifier rejected", "server unavailable",
	"bad user name or password", "not authorized",
}

// String is the specification's name of the code.
func (c ReturnCode) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("return code %d", byte(c))
}

// Connack answers a Connect (section 3.2).
type Connack struct {
	SessionPresent bool
	Code           ReturnCode
}

// Publish carries a message, in either direction (section 3.3).
type Publish struct {
	Dup    bool
	QoS    byte // 0 or 1; 2 decodes, so that a server can say why it hangs up
	Retain bool
	Topic  string // 1 to 65535 bytes without wildcards
	ID     uint16 // of QoS 1 and 2, not 0
	// Payload is what the message carries, perhaps nothing.
	Payload []byte
}

// Puback says that a message of QoS 1 has arrived (section 3.4).
type Puback struct{ ID uint16 }

// Subscribe asks for the messages of topics (section 3.8).
type Subscribe struct {
	ID            uint16
	Subscriptions []Subscription // at least one
}

// A Subscription is a topic filter (section 4.7) and the highest QoS it is
// wanted with, 0 to 2.
type Subscription struct {
	Filter string
	QoS    byte
}

// SubscriptionFailed stands in a Suback for a filter that is not granted.
const SubscriptionFailed byte = 0x80

// Suback answers each filter of a Subscribe with the QoS it is granted, or with
// SubscriptionFailed (section 3.9).
type Suback struct {
	ID    uint16
	Codes []byte // at least one
}

// Unsubscribe ends subscriptions (section 3.10).
type Unsubscribe struct {
	ID      uint16
	Filters []string // at least one
}

// Unsuback answers an Unsubscribe (section 3.11).
type Unsuback struct{ ID uint16 }

// Pingreq keeps a connection alive (section 3.12).
type Pingreq struct{}

// Pingresp answers a Pingreq (section 3.13).
type Pingresp struct{}

// Disconnect is the last packet of a client that leaves on purpose (section
// 3.14): its Will is not published.
type Disconnect struct{}
