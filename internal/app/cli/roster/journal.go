package roster

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// journalHeader is the first line of every journal, so that no other file is taken
// for one and written to.
const journalHeader = "berth import journal 1\n"

// A Journal remembers which enrollments were brought to a service, so that an
// interrupted transfer goes on where it was. It is a file with a digest for each:
// of the service, of the kind and of all that the enrollment says. What was changed
// in the roster since is therefore looked at again.
type Journal struct {
	file   *os.File
	prefix []byte
	done   map[[sha256.Size]byte]bool
}

// OpenJournal opens a journal, or makes one. target tells one service from
// another; only a digest of it is kept, so it may be a connection string.
func OpenJournal(name, target string, kind enroll.Kind) (*Journal, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(target))
	j := &Journal{file: f, prefix: append(sum[:], string(kind)+"\n"...), done: map[[sha256.Size]byte]bool{}}
	if err := j.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return j, nil
}

func (j *Journal) read() error {
	in := bufio.NewReader(j.file)
	header, err := in.ReadString('\n')
	switch {
	case header == "" && err == io.EOF:
		_, err := j.file.WriteString(journalHeader)
		return err
	case header != journalHeader:
		return errors.New("is not the journal of an import")
	}
	end := int64(len(journalHeader))
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			break // a torn last line says nothing
		}
		if err != nil {
			return err
		}
		var digest [sha256.Size]byte
		if n, err := hex.Decode(digest[:], bytes.TrimSuffix(line, []byte("\n"))); err != nil || n != len(digest) {
			return errors.New("is a damaged journal; without it the import looks at every line again")
		}
		j.done[digest] = true
		end += int64(len(line))
	}
	if err := j.file.Truncate(end); err != nil {
		return err
	}
	_, err = j.file.Seek(end, io.SeekStart)
	return err
}

// Has reports whether e was brought to the service before.
func (j *Journal) Has(e Enrollment) bool {
	digest, err := j.digest(e)
	return err == nil && j.done[digest]
}

// Add notes that enrollments are at the service. It may be lost in a crash of the
// machine: they are then found unchanged.
func (j *Journal) Add(all ...Enrollment) error {
	var lines []byte
	for _, e := range all {
		digest, err := j.digest(e)
		if err != nil {
			return err
		}
		lines = append(hex.AppendEncode(lines, digest[:]), '\n')
	}
	_, err := j.file.Write(lines)
	return err
}

// digest names e at the service. Symmetric keys are in it: random ones cannot be
// guessed from it.
func (j *Journal) digest(e Enrollment) (sum [sha256.Size]byte, err error) {
	text, err := dpsjson.Encode(Portable(e))
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	h.Write(j.prefix)
	h.Write(text)
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Close keeps the journal for the next run.
func (j *Journal) Close() error { return j.file.Close() }

// Remove closes the journal and removes it: all is done.
func (j *Journal) Remove() error {
	return errors.Join(j.file.Close(), os.Remove(j.file.Name()))
}
