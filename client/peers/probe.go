package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Probe tries the connection to NATS, once, and returns how many servers of the
// installation say meanwhile that they are there. It sends nothing.
func Probe(ctx context.Context, c Config) (servers int, err error) {
	p, err := prepare(c)
	if err != nil {
		return 0, err
	}
	options, err := p.options()
	if err != nil {
		return 0, err
	}
	conn, err := nats.Connect(c.URL, append(options,
		nats.RetryOnFailedConnect(false), nats.ConnectHandler(nil), nats.ReconnectHandler(nil), nats.DisconnectErrHandler(nil), nats.ReconnectErrHandler(nil))...)
	if err != nil {
		return 0, fmt.Errorf("connecting to NATS: %w", err)
	}
	defer conn.Close()
	heard, err := conn.SubscribeSync(p.everybody())
	if err != nil {
		return 0, fmt.Errorf("subscribing to %s: %w", p.everybody(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, aliveInterval+settleWithin)
	defer cancel()
	for {
		frame, err := heard.NextMsgWithContext(ctx)
		if err != nil {
			break // the time is over
		}
		p.hear(frame.Data, time.Now())
	}
	if err := conn.LastError(); err != nil {
		return 0, fmt.Errorf("listening to %s: %w", p.everybody(), err)
	}
	return len(p.presentLocked()), nil
}
