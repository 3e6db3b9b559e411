package dpsjson

// An IndividualEnrollment governs one registration ID.
type IndividualEnrollment struct {
	RegistrationID             string                      `json:"registrationId,omitempty"`
	DeviceID                   string                      `json:"deviceId,omitempty"`
	RegistrationState          *RegistrationState          `json:"registrationState,omitempty"` // in the answer to a GET alone
	OptionalDeviceInformation  Object                      `json:"optionalDeviceInformation,omitempty"`
	Attestation                *AttestationMechanism       `json:"attestation,omitempty"`
	Capabilities               *Capabilities               `json:"capabilities,omitempty"`
	IoTHubHostName             string                      `json:"iotHubHostName,omitempty"`
	InitialTwin                *InitialTwin                `json:"initialTwin,omitempty"`
	ETag                       string                      `json:"etag,omitempty"` // see EncodeETag
	ProvisioningStatus         ProvisioningStatus          `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy          *ReprovisionPolicy          `json:"reprovisionPolicy,omitempty"`
	CreatedDateTimeUTC         Time                        `json:"createdDateTimeUtc,omitzero"`
	LastUpdatedDateTimeUTC     Time                        `json:"lastUpdatedDateTimeUtc,omitzero"`
	AllocationPolicy           AllocationPolicy            `json:"allocationPolicy,omitempty"`
	IoTHubs                    []string                    `json:"iotHubs,omitempty"` // host names
	CustomAllocationDefinition *CustomAllocationDefinition `json:"customAllocationDefinition,omitempty"`
	CredentialPolicyName       string                      `json:"credentialPolicyName,omitempty"`
}

// An EnrollmentGroup governs every registration ID that its attestation admits.
type EnrollmentGroup struct {
	EnrollmentGroupID          string                      `json:"enrollmentGroupId,omitempty"`
	Attestation                *AttestationMechanism       `json:"attestation,omitempty"`
	Capabilities               *Capabilities               `json:"capabilities,omitempty"`
	IoTHubHostName             string                      `json:"iotHubHostName,omitempty"`
	InitialTwin                *InitialTwin                `json:"initialTwin,omitempty"`
	ETag                       string                      `json:"etag,omitempty"` // see EncodeETag
	ProvisioningStatus         ProvisioningStatus          `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy          *ReprovisionPolicy          `json:"reprovisionPolicy,omitempty"`
	CreatedDateTimeUTC         Time                        `json:"createdDateTimeUtc,omitzero"`
	LastUpdatedDateTimeUTC     Time                        `json:"lastUpdatedDateTimeUtc,omitzero"`
	AllocationPolicy           AllocationPolicy            `json:"allocationPolicy,omitempty"`
	IoTHubs                    []string                    `json:"iotHubs,omitempty"` // host names
	CustomAllocationDefinition *CustomAllocationDefinition `json:"customAllocationDefinition,omitempty"`
	CredentialPolicyName       string                      `json:"credentialPolicyName,omitempty"`
}

// AsGroup returns e as the enrollment group whose ID is e's registration ID. What
// only an individual enrollment has is left behind.
func (e IndividualEnrollment) AsGroup() EnrollmentGroup {
	return EnrollmentGroup{
		EnrollmentGroupID:          e.RegistrationID,
		Attestation:                e.Attestation,
		Capabilities:               e.Capabilities,
		IoTHubHostName:             e.IoTHubHostName,
		InitialTwin:                e.InitialTwin,
		ETag:                       e.ETag,
		ProvisioningStatus:         e.ProvisioningStatus,
		ReprovisionPolicy:          e.ReprovisionPolicy,
		CreatedDateTimeUTC:         e.CreatedDateTimeUTC,
		LastUpdatedDateTimeUTC:     e.LastUpdatedDateTimeUTC,
		AllocationPolicy:           e.AllocationPolicy,
		IoTHubs:                    e.IoTHubs,
		CustomAllocationDefinition: e.CustomAllocationDefinition,
		CredentialPolicyName:       e.CredentialPolicyName,
	}
}

// AsIndividual returns g as an individual enrollment whose registration ID is the
// group's ID: the two share all other members, and code that treats them alike
// can work with one type.
func (g EnrollmentGroup) AsIndividual() IndividualEnrollment {
	return IndividualEnrollment{
		RegistrationID:             g.EnrollmentGroupID,
		Attestation:                g.Attestation,
		Capabilities:               g.Capabilities,
		IoTHubHostName:             g.IoTHubHostName,
		InitialTwin:                g.InitialTwin,
		ETag:                       g.ETag,
		ProvisioningStatus:         g.ProvisioningStatus,
		ReprovisionPolicy:          g.ReprovisionPolicy,
		CreatedDateTimeUTC:         g.CreatedDateTimeUTC,
		LastUpdatedDateTimeUTC:     g.LastUpdatedDateTimeUTC,
		AllocationPolicy:           g.AllocationPolicy,
		IoTHubs:                    g.IoTHubs,
		CustomAllocationDefinition: g.CustomAllocationDefinition,
		CredentialPolicyName:       g.CredentialPolicyName,
	}
}

// DecodeIndividualEnrollment reads an individual enrollment. What it must have, an attestation for one, is for the
// caller to check: a bulk delete sends almost nothing.
func DecodeIndividualEnrollment(b []byte) (IndividualEnrollment, error) {
	var e IndividualEnrollment
	if err := decode(b, MaxBody, &e); err != nil {
		return IndividualEnrollment{}, err
	}
	return e, nil
}

// DecodeEnrollmentGroup reads an enrollment group, and leaves as much to the caller as [DecodeIndividualEnrollment].
func DecodeEnrollmentGroup(b []byte) (EnrollmentGroup, error) {
	var g EnrollmentGroup
	if err := decode(b, MaxBody, &g); err != nil {
		return EnrollmentGroup{}, err
	}
	return g, nil
}

// Capabilities are what the hub is told a device can do.
type Capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

// An InitialTwin is what a device's twin starts with. What the objects hold is kept to the byte, white space apart.
type InitialTwin struct {
	Tags       Object                 `json:"tags,omitempty"`
	Properties *InitialTwinProperties `json:"properties,omitempty"`
}

// InitialTwinProperties are the desired properties of an initial twin.
type InitialTwinProperties struct {
	Desired Object `json:"desired,omitempty"`
}

// A ReprovisionPolicy says what happens when an assigned device registers again.
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// A CustomAllocationDefinition names the webhook that chooses a hub or, in an extension of the service API, is the
// expression that does.
type CustomAllocationDefinition struct {
	WebhookURL string `json:"webhookUrl,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	Expression string `json:"expression,omitempty"`
}

// A ProvisioningStatus says whether devices may register. The empty one, left out or null in a body, means enabled.
type ProvisioningStatus string

// The provisioning statuses.
const (
	ProvisioningEnabled  ProvisioningStatus = "enabled"
	ProvisioningDisabled ProvisioningStatus = "disabled"
)

// UnmarshalText reads a provisioning status in any case.
func (s *ProvisioningStatus) UnmarshalText(text []byte) error {
	return canonical(s, text, ProvisioningEnabled, ProvisioningDisabled)
}

// An AllocationPolicy says how a hub is chosen.
type AllocationPolicy string

// The allocation policies.
const (
	AllocationHashed     AllocationPolicy = "hashed"
	AllocationGeoLatency AllocationPolicy = "geoLatency"
	AllocationStatic     AllocationPolicy = "static"
	AllocationCustom     AllocationPolicy = "custom"
)

// UnmarshalText reads an allocation policy in any case.
func (p *AllocationPolicy) UnmarshalText(text []byte) error {
	return canonical(p, text, AllocationHashed, AllocationGeoLatency, AllocationStatic, AllocationCustom)
}

// A BulkMode says what a bulk operation does with its enrollments.
type BulkMode string

// The bulk modes.
const (
	BulkCreate            BulkMode = "create"
	BulkUpdate            BulkMode = "update"
	BulkUpdateIfMatchETag BulkMode = "updateIfMatchETag"
	BulkDelete            BulkMode = "delete"
)

// UnmarshalText reads a bulk mode in any case.
func (m *BulkMode) UnmarshalText(text []byte) error {
	return canonical(m, text, BulkCreate, BulkUpdate, BulkUpdateIfMatchETag, BulkDelete)
}

// A BulkEnrollmentOperation does one thing to up to [MaxBulkItem] enrollments or, on the path of the groups, groups.
type BulkEnrollmentOperation struct {
	Mode             BulkMode               `json:"mode"`
	Enrollments      []IndividualEnrollment `json:"enrollments,omitempty"`
	EnrollmentGroups []EnrollmentGroup      `json:"enrollmentGroups,omitempty"`
}

// DecodeBulkEnrollmentOperation reads a bulk operation with a mode and at most [MaxBulkItem] items of either kind.
func DecodeBulkEnrollmentOperation(b []byte) (BulkEnrollmentOperation, error) {
	var o BulkEnrollmentOperation
	if err := decode(b, MaxBulkBody, &o); err != nil {
		return BulkEnrollmentOperation{}, err
	}
	switch {
	case o.Mode == "":
		return BulkEnrollmentOperation{}, fault{"mode", "missing"}
	case len(o.Enrollments) > MaxBulkItem:
		return BulkEnrollmentOperation{}, fault{"enrollments", "more than 10"}
	case len(o.EnrollmentGroups) > MaxBulkItem:
		return BulkEnrollmentOperation{}, fault{"enrollmentGroups", "more than 10"}
	}
	return o, nil
}

// A BulkEnrollmentOperationResult answers a bulk operation. [NewBulkResult] makes one.
type BulkEnrollmentOperationResult struct {
	Errors       []BulkEnrollmentOperationError `json:"errors"`
	IsSuccessful bool                           `json:"isSuccessful"`
}

// A BulkEnrollmentOperationError says what became of one item. One of the IDs is set.
type BulkEnrollmentOperationError struct {
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	ErrorCode         int    `json:"errorCode"`
	ErrorStatus       string `json:"errorStatus"`
}

// NewBulkResult returns the result with the given errors, a success if there are none.
func NewBulkResult(errs []BulkEnrollmentOperationError) BulkEnrollmentOperationResult {
	if errs == nil {
		errs = []BulkEnrollmentOperationError{} // clients want an array even when it is empty
	}
	return BulkEnrollmentOperationResult{Errors: errs, IsSuccessful: len(errs) == 0}
}

// A QuerySpecification asks for a listing.
type QuerySpecification struct {
	Query string `json:"query"`
}

// DecodeQuerySpecification reads a query. Clients also ask for everything with an empty query, {} or no body at all.
func DecodeQuerySpecification(b []byte) (QuerySpecification, error) {
	var q QuerySpecification
	if len(b) <= MaxBody && isBlank(b) {
		return q, nil
	}
	if err := decode(b, MaxBody, &q); err != nil {
		return QuerySpecification{}, err
	}
	return q, nil
}
