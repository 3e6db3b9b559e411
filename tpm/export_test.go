package tpm

import "io"

// UncheckedActivation is Activation by a service that forgets CheckSRK: what the
// tests of the attacks compare with.
func UncheckedActivation(rand io.Reader, ek, srk *Public, key []byte, uri string) ([]byte, error) {
	s, err := newSeeds(rand, ek, srk)
	if err != nil {
		return nil, err
	}
	return activation(s, ek, srk, key, uri), nil
}

// KDFe is kdfe.
var KDFe = kdfe
