package tpm

import (
	"encoding/binary"
	"fmt"
)

// A reader takes TPM-marshalled fields off the front of a slice. After the first
// field that does not fit it returns only zeros, and err says which it was.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int, field string) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.rest) < n {
		r.err = fmt.Errorf("ends within its %s", field)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u16(field string) uint16 {
	if b := r.take(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) alg(field string) Alg { return Alg(r.u16(field)) }

// sized reads a TPM2B: a two-byte length and as many bytes, which it returns.
func (r *reader) sized(field string) []byte { return r.take(int(r.u16(field)), field) }

// end returns the error of the first field that did not fit, or one that says
// that bytes are left over.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) != 0 {
		return fmt.Errorf("%d bytes too many", len(r.rest))
	}
	return r.err
}

// appendSized appends v as a TPM2B. Every caller bounds v well below 64 KiB.
func appendSized(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}
