package hub

import (
	"context"
	"fmt"
)

// Subscription returns with which quality of service of MQTT, 0 or 1, the device
// is to have the messages in its queue although this connection did not subscribe
// to them: an earlier one did, and wanted its session kept. It is nil where none
// did.
func (s *Service) Subscription(ctx context.Context, from Sender) (*byte, error) {
	qos, err := s.queues.Subscription(ctx, from.Place)
	if err != nil {
		return nil, fmt.Errorf("reading what %q of %s subscribed to: %w", from.Place, from.Hub, err)
	}
	return qos, nil
}

// KeepSubscription has Subscription return qos from now on, whatever becomes of
// this process. It is durable when KeepSubscription returns nil.
func (s *Service) KeepSubscription(ctx context.Context, from Sender, qos *byte) error {
	if err := s.queues.KeepSubscription(ctx, from.Place, qos); err != nil {
		return fmt.Errorf("keeping what %q of %s subscribed to: %w", from.Place, from.Hub, err)
	}
	return nil
}
