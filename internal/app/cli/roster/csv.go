package roster

import (
	"bufio"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Columns are the columns that a CSV roster may have, in any order and without
// regard to case. Only registrationId is needed in every file.
var Columns = []string{
	"registrationId", "deviceId", "attestation", "primaryKey", "secondaryKey", "endorsementKey", "storageRootKey",
	"certificate", "secondaryCertificate", "allocationPolicy", "iotHubs", "iotEdge", "tags", "desired",
	"provisioningStatus", "reprovision",
}

// Reprovisioning are the policies by the words that people use for them, as in the
// column "reprovision".
var Reprovisioning = map[string]dpsjson.ReprovisionPolicy{
	"migrate": {UpdateHubAssignment: true, MigrateDeviceData: true},
	"reset":   {UpdateHubAssignment: true},
	"never":   {},
}

func (r Reader) readCSV(in *bufio.Reader, roster *Roster) error {
	rows := csv.NewReader(in)
	rows.ReuseRecord = true
	rows.FieldsPerRecord = -1 // counted here, to go on with the next row
	header, err := rows.Read()
	if err != nil {
		return csvFault(err)
	}
	columns, err := columnsOf(header)
	if err != nil {
		return err
	}
	for {
		cells, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			// Where the next row begins after this is anybody's guess.
			return csvFault(err)
		}
		line, _ := rows.FieldPos(0)
		if len(cells) != len(columns) {
			roster.fault(line, "", "has %d cells and the header %d", len(cells), len(columns))
			continue
		}
		row := row{}
		for i, cell := range cells {
			row[columns[i]] = strings.TrimSpace(cell)
		}
		e, err := r.enrollmentOf(row)
		if err != nil {
			roster.fault(line, row["registrationId"], "%s", err)
			continue
		}
		roster.Entries = append(roster.Entries, Entry{e, line})
	}
}

// csvFault says where the file stops being CSV. The error of encoding/csv repeats
// nothing of it.
func csvFault(err error) error {
	if broken, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("is not CSV: line %d, column %d: %w", broken.Line, broken.Column, broken.Err)
	}
	return err
}

// columnsOf returns the columns in their documented spelling.
func columnsOf(header []string) ([]string, error) {
	var columns []string
	for _, name := range header {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(Columns, func(known string) bool { return strings.EqualFold(known, name) })
		switch {
		case i < 0 && len(header) == 1 && strings.Contains(name, ";"):
			return nil, errors.New("has a header separated by semicolons; commas are needed")
		case i < 0:
			return nil, fmt.Errorf("has a column %.60q, which is not known; known are %s", name, strings.Join(Columns, ", "))
		case slices.Contains(columns, Columns[i]):
			return nil, fmt.Errorf("has two columns %s", Columns[i])
		}
		columns = append(columns, Columns[i])
	}
	if !slices.Contains(columns, "registrationId") {
		return nil, errors.New("has no column registrationId; the first line must name the columns")
	}
	return columns, nil
}

// A row is the cells of a line by column; an empty cell is like none.
type row map[string]string

func (r Reader) enrollmentOf(row row) (Enrollment, error) {
	e := Enrollment{RegistrationID: row["registrationId"], DeviceID: row["deviceId"]}
	if e.RegistrationID == "" {
		return e, errors.New("registrationId: is missing")
	}
	var err error
	if e.Attestation, err = r.attestationOf(row); err != nil {
		return e, err
	}
	return e, row.settings(&e)
}

// settings takes what a row says besides the attestation.
func (row row) settings(e *Enrollment) error {
	if text := row["allocationPolicy"]; text != "" {
		if err := e.AllocationPolicy.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("allocationPolicy: %w", err)
		}
	}
	if text := row["provisioningStatus"]; text != "" {
		if err := e.ProvisioningStatus.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("provisioningStatus: %w", err)
		}
	}
	if hubs := strings.FieldsFunc(row["iotHubs"], func(c rune) bool { return c == ' ' || c == ';' || c == ',' }); len(hubs) > 0 {
		e.IoTHubs = hubs
	}
	switch strings.ToLower(row["iotEdge"]) {
	case "", "false":
	case "true":
		e.Capabilities = &dpsjson.Capabilities{IoTEdge: true}
	default:
		return errors.New("iotEdge: not true or false")
	}
	if word := row["reprovision"]; word != "" {
		policy, ok := Reprovisioning[strings.ToLower(word)]
		if !ok {
			return errors.New("reprovision: not one of migrate, reset, never")
		}
		e.ReprovisionPolicy = &policy
	}
	return row.twin(e)
}

func (row row) twin(e *Enrollment) error {
	var twin dpsjson.InitialTwin
	if text := row["tags"]; text != "" {
		twin.Tags = dpsjson.Object(text) // enroll.Validate looks into it
	}
	if text := row["desired"]; text != "" {
		twin.Properties = &dpsjson.InitialTwinProperties{Desired: dpsjson.Object(text)}
	}
	if twin.Tags != nil || twin.Properties != nil {
		e.InitialTwin = &twin
	}
	return nil
}

// The columns of each mechanism.
var mechanismColumns = []struct {
	mechanism dpsjson.AttestationType
	columns   []string
}{
	{dpsjson.AttestationSymmetricKey, []string{"primaryKey", "secondaryKey"}},
	{dpsjson.AttestationTPM, []string{"endorsementKey", "storageRootKey"}},
	{dpsjson.AttestationX509, []string{"certificate", "secondaryCertificate"}},
}

func (r Reader) attestationOf(row row) (*dpsjson.AttestationMechanism, error) {
	mechanism, err := row.mechanism()
	if err != nil {
		return nil, err
	}
	m := &dpsjson.AttestationMechanism{Type: mechanism}
	switch mechanism {
	case dpsjson.AttestationSymmetricKey:
		m.SymmetricKey = &dpsjson.SymmetricKeys{}
		if m.SymmetricKey.PrimaryKey, err = row.key("primaryKey"); err == nil {
			m.SymmetricKey.SecondaryKey, err = row.key("secondaryKey")
		}
	case dpsjson.AttestationTPM:
		m.TPM = &dpsjson.TPMAttestation{}
		if m.TPM.EndorsementKey, err = row.public("endorsementKey"); err == nil {
			m.TPM.StorageRootKey, err = row.public("storageRootKey")
		}
	default:
		pair := &dpsjson.X509Certificates{}
		m.X509 = &dpsjson.X509Attestation{ClientCertificates: pair}
		if pair.Primary, err = r.certificate(row, "certificate"); err == nil {
			pair.Secondary, err = r.certificate(row, "secondaryCertificate")
		}
	}
	return m, err
}

// mechanism returns what a row says its device proves itself with: in so many
// words, or by what it has for it.
func (row row) mechanism() (said dpsjson.AttestationType, err error) {
	if text := row["attestation"]; text != "" {
		if err := said.UnmarshalText([]byte(text)); err != nil || said == dpsjson.AttestationNone {
			return "", errors.New("attestation: not one of symmetricKey, tpm, x509")
		}
	}
	for _, m := range mechanismColumns {
		for _, column := range m.columns {
			switch {
			case row[column] == "":
			case said == "":
				said = m.mechanism
			case said != m.mechanism:
				return "", fmt.Errorf("%s: does not go with attestation %s", column, said)
			}
		}
	}
	if said == "" {
		return "", errors.New("attestation: is missing, and there is no key and no certificate to tell it by")
	}
	return said, nil
}

func (row row) key(column string) (k dpsjson.Key, err error) {
	if row[column] == "" {
		return k, nil
	}
	if k.SymmetricKey, err = device.ParseSymmetricKey(row[column]); err != nil {
		return k, fmt.Errorf("%s: %w", column, err)
	}
	return k, nil
}

// public reads the public half of a TPM key.
func (row row) public(column string) ([]byte, error) {
	if row[column] == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(row[column])
	if err != nil {
		return nil, fmt.Errorf("%s: not base64", column)
	}
	return b, nil
}

// certificate reads a certificate that stands in its cell, or in the file that the
// cell names.
func (r Reader) certificate(row row, column string) (*dpsjson.X509Certificate, error) {
	text := row[column]
	if text == "" {
		return nil, nil
	}
	der, err := dpsjson.ParseCertificate(text)
	if err == nil {
		return &dpsjson.X509Certificate{Certificate: der}, nil
	}
	if strings.Contains(text, "-----BEGIN") || len(text) > maxName {
		return nil, fmt.Errorf("%s: %w", column, err)
	}
	b, err := r.File(text)
	if err != nil {
		return nil, fmt.Errorf("%s: neither a certificate nor the file of one: %w", column, err)
	}
	if der, err = dpsjson.ParseCertificate(string(b)); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", column, text, err)
	}
	return &dpsjson.X509Certificate{Certificate: der}, nil
}

// maxName is how long the name of a file in a cell may be; a longer text was meant
// to be the certificate.
const maxName = 1024
