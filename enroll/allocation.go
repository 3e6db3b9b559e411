package enroll

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Limits of a custom allocation's definition, in bytes.
const (
	maxWebhookURL = 2 << 10
	maxExpression = 4 << 10
)

// oldestWebhook is the first api-version whose requests custom allocation knows.
const oldestWebhook = "2018-09-01"

func validateAllocation(e *Entry) error {
	switch e.Allocation {
	case "", Hashed, GeoLatency, Static, Custom:
	default:
		return invalid("allocationPolicy", "is %q; hashed, geoLatency, static and custom are known", e.Allocation)
	}
	const member = "customAllocationDefinition"
	switch {
	case e.Custom == nil && e.Allocation == Custom:
		return invalid(member, "is missing; allocationPolicy custom needs one")
	case e.Custom != nil && e.Allocation == "":
		return invalid(member, "is for allocationPolicy custom, and there is no allocationPolicy")
	}
	if e.Custom != nil { // beside another policy it is kept for later
		if err := validateCustom(member, e.Custom); err != nil {
			return err
		}
	}
	for i, host := range e.IoTHubs {
		if !isHost(host) {
			return invalid(fmt.Sprintf("iotHubs[%d]", i), "%q is not a host name", host)
		}
	}
	if e.IoTHub != "" && !isHost(e.IoTHub) {
		return invalid("iotHubHostName", "%q is not a host name", e.IoTHub)
	}
	return nil
}

func validateCustom(member string, c *CustomAllocation) error {
	switch {
	case c.WebhookURL == "" && c.Expression == "":
		return invalid(member, "must have a webhookUrl or an expression")
	case c.WebhookURL != "" && c.Expression != "":
		return invalid(member, "has a webhookUrl and an expression; one of them is allowed")
	case len(c.Expression) > maxExpression:
		return invalid(member+".expression", "has %d bytes; %d are allowed", len(c.Expression), maxExpression)
	case c.Expression != "" && c.APIVersion != "":
		return invalid(member+".apiVersion", "is for a webhook")
	case c.Expression != "":
		return nil
	}
	if err := checkWebhook(c.WebhookURL); err != nil {
		return invalid(member+".webhookUrl", "%v", err)
	}
	if err := checkAPIVersion(c.APIVersion); err != nil {
		return invalid(member+".apiVersion", "%v", err)
	}
	return nil
}

// checkWebhook says what is wrong with a webhook's URL without repeating it: its
// query is where keys are.
func checkWebhook(s string) error {
	if len(s) > maxWebhookURL {
		return fmt.Errorf("has %d bytes; %d are allowed", len(s), maxWebhookURL)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("must begin with https://; http:// is for hosts of the loopback interface")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must begin with https://")
	case u.User != nil:
		return errors.New("has a user name or a password; put a key into the query")
	case !isHost(u.Host):
		return errors.New("has no host name")
	case strings.Contains(s, "#"):
		return errors.New("has a fragment, which is not sent")
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

func checkAPIVersion(s string) error {
	const form = "must be YYYY-MM-DD or YYYY-MM-DD-preview"
	if s == "" {
		return errors.New("is missing; " + oldestWebhook + "-preview is the oldest one")
	}
	day := strings.TrimSuffix(s, "-preview")
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return errors.New(form)
	}
	if day < oldestWebhook {
		return errors.New("is older than " + oldestWebhook + "-preview")
	}
	return nil
}
