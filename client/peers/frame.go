package peers

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// An identity names one run of one server: random, so that no two have the same.
type identity [16]byte

func (i identity) String() string { return hex.EncodeToString(i[:]) }

// number is what hub.Stamp has of it.
func (i identity) number() uint64 { return binary.BigEndian.Uint64(i[:8]) }

// A channel is who a message is for. Each has numbers of its own.
type channel uint32

const (
	toAll channel = iota
	toOne
	channels = 2
)

const (
	frameVersion = 1
	headerSize   = 1 + len(identity{}) + 8
)

var (
	errFrame  = errors.New("it is no message of a server")
	errSealed = errors.New("it was not made with this installation's server key, or was changed")
)

// keys gives each server a key for what it sends. It comes from the server key,
// which all servers of an installation have and nobody else: who can only reach
// NATS can neither read nor write a message.
type keys []byte

// of returns the AEAD of a server's messages: AES-256-GCM (NIST SP 800-38D). The
// channel and the number are the nonce. An identity is used for one run, and a
// number once in it, so that no nonce is used twice under one key.
func (k keys) of(i identity) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, k, "berth peers, messages of "+i.String(), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of a server's messages: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func nonce(c channel, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(c)), number)
}

// A header is what is not encrypted of a frame, which is the version, the sender,
// the number and then the sealed message. The header is authenticated, and so is
// the subject.
type header struct {
	from   identity
	number uint64 // counts from 1 in each channel
}

func seal(aead cipher.AEAD, c channel, h header, subject string, m []byte) []byte {
	frame := append([]byte{frameVersion}, h.from[:]...)
	frame = binary.BigEndian.AppendUint64(frame, h.number)
	return aead.Seal(frame, nonce(c, h.number), m, additional(frame, subject))
}

func additional(head []byte, subject string) []byte {
	return append(append([]byte(nil), head...), subject...)
}

// parseHeader reads who a frame claims to be of.
func parseHeader(frame []byte) (h header, err error) {
	if len(frame) < headerSize || frame[0] != frameVersion {
		return header{}, errFrame
	}
	copy(h.from[:], frame[1:])
	h.number = binary.BigEndian.Uint64(frame[headerSize-8:])
	return h, nil
}

// openFrame returns the message in a frame whose header was read.
func openFrame(aead cipher.AEAD, c channel, h header, subject string, frame []byte) ([]byte, error) {
	m, err := aead.Open(nil, nonce(c, h.number), frame[headerSize:], additional(frame[:headerSize], subject))
	if err != nil {
		return nil, errSealed
	}
	return m, nil
}
