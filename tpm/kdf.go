package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
)

// KDFa derives a key of the given number of bits, at least 1, from key (TPM 2.0
// Library Part 1, "KDFa()": the counter mode of NIST SP 800-108 with HMAC). The label
// goes in without its terminating zero byte, which KDFa adds. If bits is not a
// multiple of 8, the unused bits of the first byte are zero. The hash must be linked
// into the program.
func KDFa(hash crypto.Hash, key []byte, label string, contextU, contextV []byte, bits int) []byte {
	size := (bits + 7) / 8
	mac := hmac.New(hash.New, key)
	var out []byte
	for counter := uint32(1); len(out) < size; counter++ {
		mac.Reset()
		mac.Write(binary.BigEndian.AppendUint32(nil, counter))
		mac.Write([]byte(label))
		mac.Write([]byte{0})
		mac.Write(contextU)
		mac.Write(contextV)
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
		out = mac.Sum(out)
	}
	if bits%8 != 0 {
		out[0] &= 1<<(bits%8) - 1
	}
	return out[:size]
}

// kdfe derives the seed that an ECC key shares with us (Part 1, "KDFe for
// ECDH"): z is the x coordinate of the shared point, u that of the ephemeral and v
// that of the static key. A seed is one digest long, so one round is enough.
func kdfe(hash crypto.Hash, z []byte, label string, u, v []byte) []byte {
	return digest(hash, []byte{0, 0, 0, 1}, z, []byte(label), []byte{0}, u, v)
}

// encryptCFB returns plain under AES in CFB mode with a feedback of one block and
// an IV of zeros, which is how a TPM protects structures (Part 1, "Protected
// Storage"). The constant IV is no weakness: every key is fresh and used once, but
// for the inner key of an activation blob, and of the two texts under that one only
// the URI shows; the other is encrypted again.
func encryptCFB(key, plain []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("tpm: " + err.Error()) // key sizes come from checked public areas
	}
	out := make([]byte, len(plain))
	var feedback [aes.BlockSize]byte
	for i := 0; i < len(plain); i += aes.BlockSize {
		block.Encrypt(feedback[:], feedback[:])
		n := subtle.XORBytes(out[i:], plain[i:], feedback[:])
		copy(feedback[:], out[i:i+n])
	}
	return out
}
