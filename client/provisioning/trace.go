package provisioning

import "time"

// A Step is one thing a registration does.
type Step string

// The steps, in the order in which a device with a TPM takes them. Others sign
// a token if they hold a symmetric key, register, and poll if need be.
const (
	ReadEndorsementKey Step = "read endorsement key"
	ReadStorageRootKey Step = "read storage root key"
	// ReadEndorsementCertificate is for modules that may hold one. Its failure
	// does not end a registration: most enrollments do without.
	ReadEndorsementCertificate Step = "read EK certificate"
	ReceiveChallenge           Step = "receive challenge" // the first request, which also connects
	ActivateCredential         Step = "activate credential"
	SignToken                  Step = "sign token"
	Register                   Step = "register"
	AwaitAssignment            Step = "await assignment" // between polls
	Poll                       Step = "poll"
	ActivateHubKey             Step = "activate hub key"
)

// A Trace is told how a registration is getting on. Its functions may be nil;
// they are called one at a time for each registration, and hold it up.
type Trace struct {
	// Done is called when a step is over, with how long it took, repeated
	// attempts and pauses between them included.
	Done func(step Step, took time.Duration, err error)
}

// step does one step of a registration and tells the trace.
func (c *Client) step(s Step, do func() error) error {
	start := time.Now()
	err := do()
	if t := c.config.Trace; t != nil && t.Done != nil {
		t.Done(s, time.Since(start), err)
	}
	return err
}
