package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/tpm"
)

// bridged starts a software TPM, has its keys made, and puts a bridge before it.
// It returns the bridge's command port and the EK.
func bridged(t *testing.T, framing string) (address string, ek []byte) {
	t.Helper()
	i, err := swtpm.Start(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Stop() })
	d, err := tpm2.Open(t.Context(), i.Address())
	if err != nil {
		t.Fatal(err)
	}
	ek, err = d.EndorsementKey(t.Context())
	if err == nil {
		_, err = d.StorageRootKey(t.Context())
	}
	d.Close()
	if err != nil {
		t.Fatal(err)
	}
	// The port after a free one may be taken.
	for range 10 {
		if address := launch(t, i.Address(), framing); address != "" {
			return address, ek
		}
	}
	t.Fatal("found no two free ports in a row")
	return "", nil
}

// launch runs the program until the test ends. It returns where it listens, or
// nothing if it could not.
func launch(t *testing.T, where, framing string) string {
	ctx, cancel := context.WithCancel(context.Background())
	said, stderr := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"-swtpm", where, "-framing", framing, "-listen", "127.0.0.1:0"}, stderr)
		stderr.Close()
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	go io.Copy(io.Discard, said)
	_, address, found := strings.Cut(strings.TrimSpace(line), " on ")
	if err != nil || !found {
		t.Logf("the bridge said %q", line)
		cancel()
		<-code
		return ""
	}
	t.Cleanup(func() {
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("the bridge ended with %d", c)
		}
	})
	return address
}

// The device's own client works through the simulator's protocol, from the
// power-on to a signature.
func TestSimulatorClient(t *testing.T) {
	address, want := bridged(t, "mssim")
	for range 2 { // a client may come back
		d, err := tpm2.Open(t.Context(), "mssim:"+address)
		if err != nil {
			t.Fatal(err)
		}
		ek, err := d.EndorsementKey(t.Context())
		if err != nil || !bytes.Equal(ek, want) {
			t.Fatalf("EK %x, %v; want %x", ek, err, want)
		}
		srk, err := d.StorageRootKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e, _ := tpm.ParsePublic(ek)
		s, _ := tpm.ParsePublic(srk)
		key := make([]byte, 32)
		rand.Read(key)
		blob, err := tpm.Activation(rand.Reader, e, s, key, "hub.example.net")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Activate(t.Context(), blob); err != nil {
			t.Fatal(err)
		}
		got, err := d.MAC(t.Context(), make([]byte, 3000))
		mac := hmac.New(sha256.New, key)
		mac.Write(make([]byte, 3000))
		if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
			t.Fatalf("MAC = %x, %v", got, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A conversation is octets sent and octets to come back, in hex.
type conversation []struct{ send, receive string }

func (talk conversation) hold(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for _, turn := range talk {
		send, _ := hex.DecodeString(strings.ReplaceAll(turn.send, " ", ""))
		want, _ := hex.DecodeString(strings.ReplaceAll(turn.receive, " ", ""))
		if _, err := c.Write(send); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after %s the bridge answered %x, %v; want %x", turn.send, got, err, want)
		}
	}
}

func TestSimulatorFraming(t *testing.T) {
	address, _ := bridged(t, "mssim")
	startup := "00000008 00 0000000c 8001 0000000c 00000144 0000"
	initialize := "0000000a 8001 0000000a 00000100 00000000"
	conversation{
		{"0000000f 00000001", "00000001 00000005 00000000"},
		{startup, initialize},
	}.hold(t, address)

	host, service, _ := net.SplitHostPort(address)
	port, _ := net.LookupPort("tcp", service)
	platform := nextPort(&net.TCPAddr{IP: net.ParseIP(host), Port: port})
	conversation{{"00000002", "00000000"}, {"00000001", "00000000"}, {"0000000b", "00000000"}}.hold(t, platform)
	conversation{
		{startup, "0000000a 8001 0000000a 00000000 00000000"},
		{startup, initialize},
	}.hold(t, address)
}

func TestResourceManagerFraming(t *testing.T) {
	address, ek := bridged(t, "rm")
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	request, _ := hex.DecodeString("00000008" + "000001" + "0000000e" + "80010000000e00000173" + "81010001")
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	response := make([]byte, binary.BigEndian.Uint32(head)+4)
	if _, err := io.ReadFull(c, response); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(response[10:], ek) {
		t.Errorf("TPM2_ReadPublic of the EK answered %x", response)
	}
}

// What is not the protocol ends the client's connection, and only that.
func TestStrangers(t *testing.T) {
	address, _ := bridged(t, "rm")
	for _, send := range []string{
		"474554202f20485454502f312e310d0a", // GET / HTTP/1.1
		"00000008 000001 ffffffff",         // a command of 4 GiB
		"00000008 000001 00000000",         // a command of nothing
		"00000014",                         // good bye
	} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b, _ := hex.DecodeString(strings.ReplaceAll(send, " ", ""))
		c.Write(b)
		if got, err := io.ReadAll(c); len(got) != 0 {
			t.Errorf("%s was answered %x, %v", send, got, err)
		}
		c.Close()
	}
	conversation{{
		"00000008 000001 0000000c 8001 0000000c 00000144 0000",
		"0000000a 8001 0000000a 00000100 00000000",
	}}.hold(t, address)
}

func TestUsage(t *testing.T) {
	for want, args := range map[int][][]string{
		2: {{}, {"-swtpm", "unix:/s", "-framing", "tbs"}, {"-swtpm", "unix:/s", "more"}, {"-no-such-flag"}},
		1: {{"-swtpm", "unix:" + t.TempDir() + "/none"}},
	} {
		for _, a := range args {
			if got := run(t.Context(), a, io.Discard); got != want {
				t.Errorf("tpmbridge %v ended with %d, want %d", a, got, want)
			}
		}
	}
}
