package tpm

import (
	"fmt"
	"strings"
)

// Attributes is a TPMA_OBJECT (TPM 2.0 Library Part 2 §8.3): what a TPM promises
// about a key and will let it do.
type Attributes uint32

// The attributes, with the names of the specification.
const (
	FixedTPM             Attributes = 1 << 1  // the key never leaves its TPM
	STClear              Attributes = 1 << 2  // a saved context dies with the next restart
	FixedParent          Attributes = 1 << 4  // the key never gets another parent
	SensitiveDataOrigin  Attributes = 1 << 5  // the TPM made the private part
	UserWithAuth         Attributes = 1 << 6  // the authorization value lets its holder use the key
	AdminWithPolicy      Attributes = 1 << 7  // only the policy lets anyone administer the key
	FirmwareLimited      Attributes = 1 << 8  // the key is bound to one firmware image
	SVNLimited           Attributes = 1 << 9  // the key is bound to a firmware version number
	NoDA                 Attributes = 1 << 10 // wrong guesses do not count towards lockout
	EncryptedDuplication Attributes = 1 << 11 // a duplicate must be wrapped
	Restricted           Attributes = 1 << 16 // the key works only on structures the TPM made
	Decrypt              Attributes = 1 << 17
	SignEncrypt          Attributes = 1 << 18 // sign, or encrypt for a symmetric key
	X509Sign             Attributes = 1 << 19 // signs only through TPM2_CertifyX509
)

var attributeNames = []struct {
	bit  Attributes
	name string
}{
	{FixedTPM, "fixedTPM"},
	{STClear, "stClear"},
	{FixedParent, "fixedParent"},
	{SensitiveDataOrigin, "sensitiveDataOrigin"},
	{UserWithAuth, "userWithAuth"},
	{AdminWithPolicy, "adminWithPolicy"},
	{FirmwareLimited, "firmwareLimited"},
	{SVNLimited, "svnLimited"},
	{NoDA, "noDA"},
	{EncryptedDuplication, "encryptedDuplication"},
	{Restricted, "restricted"},
	{Decrypt, "decrypt"},
	{SignEncrypt, "sign"},
	{X509Sign, "x509sign"},
}

// knownAttributes has every named bit set; the others are reserved.
const knownAttributes = FixedTPM | STClear | FixedParent | SensitiveDataOrigin | UserWithAuth |
	AdminWithPolicy | FirmwareLimited | SVNLimited | NoDA | EncryptedDuplication | Restricted |
	Decrypt | SignEncrypt | X509Sign

// String lists the attributes that are set, lowest bit first, as in
// "fixedTPM|restricted|decrypt". Reserved bits come last, in hexadecimal; an
// empty set is "none".
func (a Attributes) String() string {
	var set []string
	for _, n := range attributeNames {
		if a&n.bit != 0 {
			set = append(set, n.name)
		}
	}
	if rest := a &^ knownAttributes; rest != 0 {
		set = append(set, fmt.Sprintf("%#x", uint32(rest)))
	}
	if set == nil {
		return "none"
	}
	return strings.Join(set, "|")
}
