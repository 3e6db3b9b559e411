// Package service is the SDK for operators' programs: it creates, reads,
// changes and lists the enrollments and registrations of an Azure IoT Hub Device
// Provisioning Service (DPS) or of Berth, with the DPS service REST API; and the
// identities and twins of an IoT hub, with [NewHub].
//
//	c, err := service.New("HostName=…;SharedAccessKeyName=…;SharedAccessKey=…", client.HTTP{})
//	…
//	e, err := c.CreateEnrollment(ctx, dpsjson.IndividualEnrollment{
//		RegistrationID: "pump-7",
//		Attestation:    &dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey},
//	})
//
// A refusal is a [client.Error], with status 404 for what does not exist, 409
// for what exists already and 412 for what somebody else changed meanwhile.
// Calls that only read or delete are repeated after network errors and answers
// 5xx, the others only where they cannot have had an effect.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const (
	apiVersion = "2021-10-01"

	pageSize  = "100"
	maxPage   = 16 << 20 // bytes of a page
	maxAnswer = 1 << 20  // bytes of any other answer

	// maxEmptyPages is how many pages without an item a listing reads in a row
	// before it takes the service to be going round in circles.
	maxEmptyPages = 100

	enrollments = "/enrollments"
	groups      = "/enrollmentGroups"
	states      = "/registrations"
)

// AnyETag is the entity tag that matches whatever is there.
const AnyETag = "*"

// A Client is an operator's access to one provisioning service. It is safe for
// concurrent use.
type Client struct {
	rest      *rest.Client
	authorize func(context.Context) (string, error)
}

// New reads a connection string,
//
//	HostName={host};SharedAccessKeyName={policy};SharedAccessKey={base64}
//
// or one with a ready SharedAccessSignature={token} instead of the last two,
// and returns a client; it does not connect. Errors do not repeat the string.
func New(connectionString string, o client.HTTP) (*Client, error) {
	s, err := rest.ParseConnectionString(connectionString)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	r, err := rest.New(s.Host, nil, o)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	return &Client{rest: r, authorize: s.Authorize()}, nil
}

// CreateEnrollment makes an individual enrollment. The service generates
// symmetric keys that are not given; they are in the answer.
func (c *Client) CreateEnrollment(ctx context.Context, e dpsjson.IndividualEnrollment) (*dpsjson.IndividualEnrollment, error) {
	e.ETag, e.RegistrationState = "", nil
	return put(ctx, c, enrollments, e.RegistrationID, "", e)
}

// Enrollment returns an individual enrollment with the state of its
// registration, but without symmetric keys; see [Client.EnrollmentAttestation].
func (c *Client) Enrollment(ctx context.Context, registrationID string) (*dpsjson.IndividualEnrollment, error) {
	return get[dpsjson.IndividualEnrollment](ctx, c, enrollments, registrationID)
}

// UpdateEnrollment replaces an individual enrollment, provided that it still
// has the ETag of e, which may be [AnyETag]. Symmetric keys and certificates
// that e does not show, as after [Client.Enrollment], stay as they are.
func (c *Client) UpdateEnrollment(ctx context.Context, e dpsjson.IndividualEnrollment) (*dpsjson.IndividualEnrollment, error) {
	if e.ETag == "" {
		return nil, errNoETag(e.RegistrationID)
	}
	etag := e.ETag
	e.ETag, e.RegistrationState = "", nil
	return put(ctx, c, enrollments, e.RegistrationID, etag, e)
}

// DeleteEnrollment removes an individual enrollment if it still has the given
// ETag, or in any case if that is empty. The device stays at its hub. After a
// lost answer the call is repeated and may then report 404.
func (c *Client) DeleteEnrollment(ctx context.Context, registrationID, etag string) error {
	return c.delete(ctx, enrollments, registrationID, etag)
}

// Enrollments lists all individual enrollments, without symmetric keys and
// registration states. It fetches pages as the loop goes on; an error ends it.
func (c *Client) Enrollments(ctx context.Context) iter.Seq2[*dpsjson.IndividualEnrollment, error] {
	return list[dpsjson.IndividualEnrollment](ctx, c, enrollments+"/query")
}

// EnrollmentAttestation returns how an individual enrollment's device proves
// itself, symmetric keys included.
func (c *Client) EnrollmentAttestation(ctx context.Context, registrationID string) (*dpsjson.AttestationMechanism, error) {
	return c.attestation(ctx, enrollments, registrationID)
}

// CreateGroup makes an enrollment group. The service generates symmetric keys
// that are not given; they are in the answer.
func (c *Client) CreateGroup(ctx context.Context, g dpsjson.EnrollmentGroup) (*dpsjson.EnrollmentGroup, error) {
	g.ETag = ""
	return put(ctx, c, groups, g.EnrollmentGroupID, "", g)
}

// Group returns an enrollment group without symmetric keys; see
// [Client.GroupAttestation].
func (c *Client) Group(ctx context.Context, groupID string) (*dpsjson.EnrollmentGroup, error) {
	return get[dpsjson.EnrollmentGroup](ctx, c, groups, groupID)
}

// UpdateGroup replaces an enrollment group, on the terms of
// [Client.UpdateEnrollment].
func (c *Client) UpdateGroup(ctx context.Context, g dpsjson.EnrollmentGroup) (*dpsjson.EnrollmentGroup, error) {
	if g.ETag == "" {
		return nil, errNoETag(g.EnrollmentGroupID)
	}
	etag := g.ETag
	g.ETag = ""
	return put(ctx, c, groups, g.EnrollmentGroupID, etag, g)
}

// DeleteGroup removes an enrollment group, on the terms of
// [Client.DeleteEnrollment]. Registrations made through it stay.
func (c *Client) DeleteGroup(ctx context.Context, groupID, etag string) error {
	return c.delete(ctx, groups, groupID, etag)
}

// Groups lists all enrollment groups, on the terms of [Client.Enrollments].
func (c *Client) Groups(ctx context.Context) iter.Seq2[*dpsjson.EnrollmentGroup, error] {
	return list[dpsjson.EnrollmentGroup](ctx, c, groups+"/query")
}

// GroupAttestation returns how the devices of an enrollment group prove
// themselves, symmetric keys included.
func (c *Client) GroupAttestation(ctx context.Context, groupID string) (*dpsjson.AttestationMechanism, error) {
	return c.attestation(ctx, groups, groupID)
}

// RegistrationState returns the record of a device's last registration.
func (c *Client) RegistrationState(ctx context.Context, registrationID string) (*dpsjson.RegistrationState, error) {
	return get[dpsjson.RegistrationState](ctx, c, states, registrationID)
}

// DeleteRegistrationState removes the record of a device's registration, on the
// terms of [Client.DeleteEnrollment]. The device stays at its hub.
func (c *Client) DeleteRegistrationState(ctx context.Context, registrationID, etag string) error {
	return c.delete(ctx, states, registrationID, etag)
}

// RegistrationStates lists the records of registrations that were made through
// an enrollment group, on the terms of [Client.Enrollments].
func (c *Client) RegistrationStates(ctx context.Context, groupID string) iter.Seq2[*dpsjson.RegistrationState, error] {
	path, err := pathOf(states, groupID)
	if err != nil {
		return func(yield func(*dpsjson.RegistrationState, error) bool) { yield(nil, err) }
	}
	return list[dpsjson.RegistrationState](ctx, c, path+"/query")
}

func errNoETag(id string) error {
	return fmt.Errorf("updating %s: it has no ETag; read it first, or set AnyETag", id)
}

// pathOf returns the path of one thing. Registration IDs and group IDs follow
// the same rule.
func pathOf(collection, id string) (string, error) {
	if _, err := device.ParseRegistrationID(id); err != nil {
		return "", fmt.Errorf("the ID %w", err)
	}
	return collection + "/" + url.PathEscape(id), nil
}

func (c *Client) call(ctx context.Context, r rest.Request) (*rest.Answer, error) {
	r.Path += "?api-version=" + apiVersion
	r.Authorize = c.authorize
	return c.rest.Do(ctx, r)
}

func put[T any](ctx context.Context, c *Client, collection, id, etag string, v T) (*T, error) {
	path, err := pathOf(collection, id)
	if err != nil {
		return nil, err
	}
	verb := "creating"
	header := http.Header{}
	if etag != "" {
		verb = "updating"
		header.Set("If-Match", etag)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, id, err)
	}
	var changed T
	answer, err := c.call(ctx, rest.Request{Method: http.MethodPut, Path: path, Header: header, Body: body, MaxAnswer: maxAnswer})
	if err == nil {
		err = answer.JSON(&changed)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, id, err)
	}
	return &changed, nil
}

func get[T any](ctx context.Context, c *Client, collection, id string) (*T, error) {
	path, err := pathOf(collection, id)
	if err != nil {
		return nil, err
	}
	var v T
	answer, err := c.call(ctx, rest.Request{Method: http.MethodGet, Path: path, Repeatable: true, MaxAnswer: maxAnswer})
	if err == nil {
		err = answer.JSON(&v)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", id, err)
	}
	return &v, nil
}

func (c *Client) delete(ctx context.Context, collection, id, etag string) error {
	path, err := pathOf(collection, id)
	if err != nil {
		return err
	}
	header := http.Header{}
	if etag != "" {
		header.Set("If-Match", etag)
	}
	if _, err := c.call(ctx, rest.Request{Method: http.MethodDelete, Path: path, Header: header, Repeatable: true, MaxAnswer: maxAnswer}); err != nil {
		return fmt.Errorf("deleting %s: %w", id, err)
	}
	return nil
}

func (c *Client) attestation(ctx context.Context, collection, id string) (*dpsjson.AttestationMechanism, error) {
	path, err := pathOf(collection, id)
	if err != nil {
		return nil, err
	}
	var m dpsjson.AttestationMechanism
	answer, err := c.call(ctx, rest.Request{Method: http.MethodPost, Path: path + "/attestationmechanism", Repeatable: true, MaxAnswer: maxAnswer})
	if err == nil {
		err = answer.JSON(&m)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the attestation mechanism of %s: %w", id, err)
	}
	return &m, nil
}

// list follows the continuation tokens of a query.
func list[T any](ctx context.Context, c *Client, path string) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		continuation, empty := "", 0
		for {
			items, next, err := page[T](ctx, c, path, continuation)
			if err != nil {
				yield(nil, fmt.Errorf("listing: %w", err))
				return
			}
			for i := range items {
				if !yield(&items[i], nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if empty++; len(items) > 0 {
				empty = 0
			}
			if next == continuation || empty > maxEmptyPages {
				yield(nil, errors.New("listing: the service repeats itself"))
				return
			}
			continuation = next
		}
	}
}

func page[T any](ctx context.Context, c *Client, path, continuation string) (items []T, next string, err error) {
	header := http.Header{"x-ms-max-item-count": {pageSize}}
	if continuation != "" {
		header["x-ms-continuation"] = []string{continuation}
	}
	answer, err := c.call(ctx, rest.Request{
		Method: http.MethodPost, Path: path, Header: header, Body: []byte(`{"query":"SELECT *"}`), Repeatable: true, MaxAnswer: maxPage,
	})
	if err != nil {
		return nil, "", err
	}
	if err := answer.JSON(&items); err != nil {
		return nil, "", err
	}
	return items, answer.Header.Get("x-ms-continuation"), nil
}
