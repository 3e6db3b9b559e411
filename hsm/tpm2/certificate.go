package tpm2

import (
	"context"
	"fmt"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/attest/ekcert"
)

// NV indices of the endorsement key's certificate. TCG EK Credential Profile for
// TPM Family 2.0, "Low Range" and "EK Certificate Chains".
const (
	certificateIndex = gotpm.TPMHandle(0x01c00002) // RSA-2048
	chainFirst       = gotpm.TPMHandle(0x01c00100)
	chainLast        = gotpm.TPMHandle(0x01c001ff)
)

// maxChain bounds the indices that are read for a chain: the certificates in them
// are fewer.
const maxChain = ekcert.MaxChain

// EndorsementCertificate returns the vendor's certificate of the endorsement key,
// DER without what else is in its NV index, and the CA certificates that stand
// above it, DER behind DER, where the TPM holds those too. If the TPM has no
// certificate, as most software TPMs and some chips, the error is of kind
// errs.NotFound.
func (t *TPM) EndorsementCertificate(ctx context.Context) (certificate, chain []byte, err error) {
	err = t.use(ctx, func(l *link) error {
		stored, err := l.readNV(certificateIndex)
		if err != nil {
			return err
		}
		parsed, err := ekcert.Parse(stored)
		if err != nil {
			return fmt.Errorf("NV index %#x: %w", uint32(certificateIndex), err)
		}
		certificate = parsed.X509.Raw
		chain, err = l.certificateChain()
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the endorsement key certificate: %w", err)
	}
	return certificate, chain, nil
}

// certificateChain joins the indices of the chain; there may be none.
func (l *link) certificateChain() (chain []byte, err error) {
	rsp, err := gotpm.GetCapability{
		Capability: gotpm.TPMCapHandles, Property: uint32(chainFirst), PropertyCount: maxChain,
	}.Execute(l)
	if err != nil {
		return nil, explain("listing NV indices", err)
	}
	handles, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, fmt.Errorf("listing NV indices: %w", err)
	}
	for _, index := range handles.Handle {
		if index > chainLast {
			break
		}
		part, err := l.readNV(index)
		if err != nil {
			return nil, err
		}
		chain = append(chain, part...)
	}
	return chain, nil
}
