package ekcert

import (
	"math/big"

	"github.com/berth-iot/berth/tpm"
)

// weakGenerator reports whether an RSA key was made by the generator of
// CVE-2017-15361, which TPMs of a large vendor carried until 2017. Its primes
// are k·M + (65537^a mod M), with M the product of the first primes, so modulo
// each of those the modulus is a power of 65537. The private key of such a
// modulus can be found at a cost that a thief of identities can pay. Another key
// has the property with a chance of one in 200 million.
func weakGenerator(p *tpm.Public) bool {
	if p.Type != tpm.AlgRSA {
		return false
	}
	n, rest := new(big.Int).SetBytes(p.Modulus), new(big.Int)
	for _, prime := range rocaPrimes {
		if !isPowerOf65537(rest.Mod(n, big.NewInt(prime)).Int64(), prime) {
			return false
		}
	}
	return true
}

// isPowerOf65537 reports whether r is one of 65537^a mod prime.
func isPowerOf65537(r, prime int64) bool {
	for power := int64(1); ; {
		if power == r {
			return true
		}
		if power = power * 65537 % prime; power == 1 {
			return false
		}
	}
}

// rocaPrimes are those of the first 39 primes, which divide every M, modulo which
// not every number is a power of 65537. The others tell nothing.
var rocaPrimes = [...]int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}
