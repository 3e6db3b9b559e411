package hub

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/errs"
)

// The documented limits of device-to-cloud messages.
const (
	MaxMessageSize = 256 << 10 // bytes, properties included; a batch shares it
	MaxBatch       = 500       // messages
)

// The system properties that the hub sets, by their names without the prefix
// "iothub-". What a device sends under these names is replaced.
const (
	connectionDeviceID     = "connection-device-id"
	connectionModuleID     = "connection-module-id"
	connectionGenerationID = "connection-auth-generation-id"
	connectionAuthMethod   = "connection-auth-method"
	messageSource          = "message-source"
	enqueuedTime           = "enqueuedtime"
	dataSchema             = "dt-dataschema"
)

// Ingest keeps what a device sent, all of it or none. Of each message only
// System, Properties and Body are taken, which are the hub's from then on. The
// messages are durable when it returns nil.
func (s *Service) Ingest(ctx context.Context, from Sender, messages []Message) error {
	kept, err := s.received(from, messages)
	if err != nil {
		return err
	}
	if err := s.stream.Append(ctx, kept); err != nil {
		return fmt.Errorf("keeping %d message(s) of %q at %s: %w", len(kept), from.ID, from.Hub, err)
	}
	return nil
}

// Receive is Ingest for who does not wait: kept is called when the message is
// durable, or cannot be, in the order in which messages were received. An error
// means that it is not called. Receive waits while too many messages do.
func (s *Service) Receive(ctx context.Context, from Sender, m Message, kept func(error)) error {
	received, err := s.received(from, []Message{m})
	if err != nil {
		return err
	}
	return s.intake.add(ctx, s.stream, arrival{message: received[0], kept: kept})
}

// received checks messages and notes on them what the hub knows.
func (s *Service) received(from Sender, messages []Message) ([]*Message, error) {
	if len(messages) == 0 {
		return nil, errs.New(errs.Invalid, errs.CodeArgumentInvalid, "the batch has no message")
	}
	if len(messages) > MaxBatch {
		return nil, errs.New(errs.TooLarge, errs.CodeMessageTooLarge, "the batch has %d messages; %d are allowed", len(messages), MaxBatch)
	}
	now, size := s.now(), 0
	s.active(from, now)
	kept := make([]*Message, len(messages))
	for i, m := range messages {
		if size += m.size(); size > MaxMessageSize {
			return nil, errs.New(errs.TooLarge, errs.CodeMessageTooLarge, "over %d bytes, properties included", MaxMessageSize)
		}
		system := m.System
		if system == nil {
			system = make(map[string]string)
		}
		system[connectionDeviceID] = string(from.ID)
		delete(system, connectionModuleID)
		if from.Module != "" {
			system[connectionModuleID] = string(from.Module)
		}
		system[connectionGenerationID] = from.GenerationID
		system[connectionAuthMethod] = from.Method
		if delete(system, dataSchema); from.ModelID != "" {
			system[dataSchema] = from.ModelID
		}
		system[messageSource] = "Telemetry"
		system[enqueuedTime] = systemTime(now)
		kept[i] = &Message{
			Hub: from.Hub, DeviceID: from.ID, ModuleID: from.Module, Enqueued: now,
			System: system, Properties: m.Properties, Body: m.Body,
		}
	}
	return kept, nil
}

func (m Message) size() int {
	n := len(m.Body)
	for _, properties := range []map[string]string{m.System, m.Properties} {
		for name, value := range properties {
			n += len(name) + len(value)
		}
	}
	return n
}
