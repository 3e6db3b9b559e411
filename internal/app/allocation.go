package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-iot/berth/client/webhook"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/provision/custom"
	"github.com/berth-iot/berth/provision/expression"
)

// A chooser is the provision.Chooser of a server: it asks whom the enrollment
// names.
type chooser struct {
	webhooks    *webhook.Client
	expressions *expression.Evaluator
	observe     func(by, result string, took time.Duration)
}

func newChooser(c Config, m *metrics) (*chooser, error) {
	webhooks, err := webhook.New(webhook.Config{Allowed: c.Provisioning.Webhooks, Now: c.clock()})
	if err != nil {
		return nil, fmt.Errorf("provisioning.webhooks: %w", err)
	}
	m.watch(webhooks)
	return &chooser{webhooks, expression.New(), m.allocated}, nil
}

// Who decides in a custom allocation, and what came of it.
const (
	byExpression = "expression"
	byWebhook    = "webhook"

	allocationChosen      = "chosen"
	allocationFailed      = "failed"      // the device is told so
	allocationUnavailable = "unavailable" // and is asked for again
)

// Choose implements provision.Chooser.
func (c *chooser) Choose(ctx context.Context, q provision.Question) (*provision.Choice, error) {
	var by string
	var ask func(context.Context, provision.Question) (*provision.Choice, error)
	switch definition := q.Entry.Custom; {
	case definition == nil:
		return nil, custom.Failed(errors.New("the enrollment says neither by what webhook nor by what expression"))
	case definition.Expression != "":
		by, ask = byExpression, c.expressions.Choose
	default:
		by, ask = byWebhook, c.webhooks.Choose
	}
	begin := time.Now()
	choice, err := ask(ctx, q)
	c.observe(by, allocationResult(err), time.Since(begin))
	return choice, err
}

func allocationResult(err error) string {
	switch {
	case err == nil:
		return allocationChosen
	case errs.KindOf(err) == errs.Invalid:
		return allocationFailed
	}
	return allocationUnavailable
}

// check reports why a definition could not be worked with, beginning with its
// member.
func (c *chooser) check(definition *enroll.CustomAllocation) error {
	if definition.Expression != "" {
		if err := c.expressions.Check(definition.Expression); err != nil {
			return fmt.Errorf("expression: %w", err)
		}
		return nil
	}
	if err := c.webhooks.Check(definition.WebhookURL); err != nil {
		return fmt.Errorf("webhookUrl: %w", err)
	}
	return nil
}
