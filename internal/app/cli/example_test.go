package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/pki"
)

// TestEveryExampleWorks runs the examples in the help of every command, in
// order, each command against a fresh server with a few things in it.
func TestEveryExampleWorks(t *testing.T) {
	chip, err := swtpm.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chip.Stop(); err != nil {
			t.Error(err)
		}
	})
	walk(newRoot(&terminal{}), func(c *cobra.Command) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			if c.Short == "" || c.Long == "" {
				t.Error("the command does not say what it does")
			}
			if c.Example == "" && c.HasParent() {
				t.Error("the command has no example")
			}
			if c.Example != "" {
				prepare(t, c.CommandPath(), chip.Address())
			}
			for line := range strings.Lines(c.Example) {
				runExample(t, c.CommandPath(), line, chip.Address())
			}
		})
	})
}

func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, below := range c.Commands() {
		walk(below, visit)
	}
}

// prepare goes into a directory with the files that examples name, and starts
// the server they mean.
func prepare(t *testing.T, command, tpm string) {
	t.Chdir(t.TempDir())
	if err := writeCertificates("."); err != nil {
		t.Fatal(err)
	}
	if err := writeEndorsementKey(tpm, "ek.b64"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"pump-7.key":         "cHVtcC03LCBhIGtleSBvZiAzMiBieXRlcyBoZXJlLi4=",
		"valve-2.key":        "dmFsdmUtMiwgYSBrZXkgb2YgMzIgYnl0ZXMgaGVyZS4=",
		"new.key":            "cHVtcC03LCBhIG5ld2VyIGtleSwgMzIgYnl0ZXMuLi4=",
		"fleet.key":          "dGhlIGZsZWV0J3MgZ3JvdXAga2V5LCAzMiBieXRlcy4=",
		"rig.key":            "dGhlIHJpZydzIGdyb3VwIGtleSwgMzIgYnl0ZXMuLi4=",
		"contoso.connection": "HostName=contoso.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=Y29udG9zbydzIGtleSBmb3IgYmVydGgsIDMyIGJ5dGU=",
		"reel.csv":           "serial;endorsementKey\n1;000b4a1f2d6c8e0b93755a7e6f10c2d4b68a1c3e5f708192a3b4c5d6e7f8091a2b3c\n",
		"devices.csv": "registrationId,primaryKey,certificate,tags\n" +
			"valve-8,dmFsdmUtOCwgYSBrZXkgb2YgMzIgYnl0ZXMgaGVyZS4=,,\nleaf-1,,leaf.pem,\"{\"\"site\"\":\"\"north\"\"}\"",
		"devices.jsonl":   `{"registrationId": "valve-9", "attestation": {"type": "symmetricKey"}}`,
		"groups.jsonl":    `{"enrollmentGroupId": "shed", "attestation": {"type": "symmetricKey"}}`,
		"webhook.url":     "https://allocate.example.com/api/allocate?code=c2VjcmV0",
		"allocate.cel":    `linkedHubs.filter(h, h.startsWith(deviceRuntimeContext.payload.region + "."))[0]`,
		"site.yaml":       "kind: enrollmentGroup\nenrollmentGroupId: site-7\nattestation: {type: symmetricKey}\n---\nkind: policy\nname: reader\nrights: [EnrollmentRead]",
		"update.bin":      "what the device is to run next",
		"hook.key":        "TWZLUTlyOEdLWXFyVHdqVVBEOElMUFpJbzJMYUxhU3c=",
		"berth.creds":     "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n",
		"sample.json":     `{"temperature": 81}`,
		"next.key":        "cHVtcC03LCBhIGtleSBmb3IgbGF0ZXIsIDMyIGJ5dGU=",
		"filter.json":     `{"limit": 25}`,
		"fast.json":       `{"deviceContent": {"properties.desired.rate": {"seconds": 5}}}`,
		"deployment.json": `{"content": {"modulesContent": {"$edgeAgent": {"properties.desired": {"schemaVersion": "1.1"}}}}}`,
		"twin.json":       `{"tags": {"site": "north"}, "properties": {"desired": {"interval": 60}}}`,
	} {
		if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("manifests", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("manifests/group.yaml", []byte("kind: enrollmentGroup\nenrollmentGroupId: fleet\nattestation: {type: symmetricKey}\nprovisioningStatus: disabled\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if command == "berth serve" {
		err := app.Init(t.Context(), app.InitOptions{Data: "data", Hosts: []string{"localhost"}, Listen: "127.0.0.1:0"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(t.TempDir(), "server")
	_, stop, err := startServer(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	t.Setenv("BERTH_DATA", data)
	for _, line := range []string{
		"berth enrollment create pump-7 --primary-key-file pump-7.key",
		"berth enrollment create chip-1 --tpm @ek.b64",
		"berth group create fleet --primary-key-file fleet.key",
		"berth group create works --x509 ca.pem",
		"berth group create reel-1 --tpm-list reel.csv",
		"berth ca add plant --certificate ca.pem --verified",
		"berth device --registration-id pump-7 --key pump-7.key --send hello",
		"berth device --registration-id unit-1 --group-key fleet.key",
		"berth device --registration-id pump-7 --key pump-7.key",
	} {
		runExample(t, "", line, tpm)
	}
	if command == "berth restore" {
		runExample(t, "", "berth backup before-upgrade.tar", tpm)
	}
	if strings.HasSuffix(command, " azure-dps") || command == "berth import" || command == "berth export" {
		stop, err := startPeer(filepath.Join(t.TempDir(), "peer"), "azure.connection", "azure-ca.pem")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := stop(); err != nil {
				t.Errorf("the peer ended with: %v", err)
			}
		})
	}
	if command == "berth trust import" {
		if err := os.MkdirAll("vendors/Acme/RootCA", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link("vendor.pem", "vendors/Acme/RootCA/vendor.pem"); err != nil {
			t.Fatal(err)
		}
	} else if strings.HasPrefix(command, "berth trust") {
		runExample(t, "", "berth trust import vendor.pem --vendor Acme", tpm)
	}
	if command == "berth hub unlink" || strings.HasPrefix(command, "berth policy ") {
		runExample(t, "", "berth hub link spare.example.com --no-allocation", tpm)
	}
	if command == "berth hub tail" || strings.HasPrefix(command, "berth hub sink") || strings.HasPrefix(command, "berth hub route") || strings.HasPrefix(command, "berth hub group") {
		takes := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(takes.Close)
		for _, line := range []string{
			"berth hub sink add ops --kind webhook --url " + takes.URL + " --secret-file hook.key",
			"berth hub sink add lake --kind webhook --url " + takes.URL + " --secret-file hook.key",
			"berth hub route add alarms --sink lake",
			"berth hub route add hot --sink lake --condition '$body.temperature > 80'",
		} {
			runExample(t, "", line, tpm)
		}
	}
	prepareHub(t, command)
	switch command {
	case "berth device":
		runExample(t, "", "berth hub send pump-7 --body restart", tpm)
	case "berth hub sink remove":
		runExample(t, "", "berth hub route remove alarms", tpm)
		runExample(t, "", "berth hub route remove hot", tpm)
	case "berth hub group remove":
		runExample(t, "", "berth hub tail --group billing --limit 1 --from-beginning", tpm)
	case "berth ca verify":
		proveCA(t, "plant")
	case "berth ca remove":
		runExample(t, "", "berth ca add old-plant --certificate ca.pem --verified", tpm)
		runExample(t, "", "berth group create old-lines --ca-reference old-plant", tpm)
	}
	enrollTPM(t, tpm)
}

// prepareHub gives the hub what the commands are about that work with one.
func prepareHub(t *testing.T, command string) {
	t.Helper()
	work, ok := strings.CutPrefix(command, "berth hub ")
	if work, _, _ = strings.Cut(work, " "); !ok || !slices.Contains([]string{"device", "module", "twin", "method", "query", "configuration"}, work) {
		return
	}
	if command != "berth hub device create" {
		runExample(t, "", "berth hub device create gate-1 --edge", "")
		runExample(t, "", "berth hub twin update gate-1 --tags {\"site\":\"north\"}", "")
	}
	if command == "berth hub twin update" {
		runExample(t, "", "berth hub module create gate-1 sieve", "")
	}
	if strings.HasPrefix(work, "configuration") && !strings.HasSuffix(command, "create") {
		runExample(t, "", "berth hub configuration create fast --content fast.json --target *", "")
	}
	if command == "berth hub configuration" {
		runExample(t, "", "berth hub configuration delete fast", "")
	}
	if command != "berth hub module create" && command != "berth hub module" && command != "berth hub device create" {
		runExample(t, "", "berth hub module create gate-1 filter", "")
	}
	if command == "berth hub method" {
		answerMethods(t, "pump-7", "")
		answerMethods(t, "gate-1", "filter")
	}
}

// answerMethods connects a device or a module that has every method.
func answerMethods(t *testing.T, id, module device.ID) {
	t.Helper()
	name := string(id)
	if module != "" {
		name += "/" + string(module)
	}
	var out, log bytes.Buffer
	if status := Run(t.Context(), []string{"hub", "device", "connection", name, "--out", "-"}, nil, &out, &log); status != exitOK {
		t.Fatalf("exit status %d\n%s", status, log.String())
	}
	_, rest, _ := strings.Cut(out.String(), "HostName=")
	host, _, _ := strings.Cut(rest, ";")
	_, text, _ := strings.Cut(out.String(), "SharedAccessKey=")
	key, err := device.ParseSymmetricKey(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := (&terminal{data: os.Getenv("BERTH_DATA")}).trust("")
	if err != nil {
		t.Fatal(err)
	}
	c, err := hub.Connect(t.Context(), hub.ConnectionConfig{
		Host: host, DeviceID: id, ModuleID: module, Credential: client.SymmetricKey(key), RootCAs: roots.RootCAs, Transport: hub.WebSocket,
		OnMethod: func(context.Context, string, json.RawMessage) (int, json.RawMessage, error) { return 200, nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// proveCA asks for a code and puts what the CA signed for it into proof.pem, as
// who has its key does.
func proveCA(t *testing.T, name string) {
	t.Helper()
	var code, log bytes.Buffer
	if status := Run(t.Context(), []string{"ca", "code", name}, nil, &code, &log); status != exitOK {
		t.Fatalf("exit status %d\n%s", status, log.String())
	}
	ca, err := (&terminal{}).readIssuer("ca.pem", "ca.key")
	if err != nil {
		t.Fatal(err)
	}
	proof, err := ca.ProvePossession(strings.TrimSpace(code.String()), time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("proof.pem", pki.EncodeCertificates(proof), 0o644); err != nil {
		t.Fatal(err)
	}
}

// enrollTPM enrolls the TPM under the name that SDKs derive for it.
func enrollTPM(t *testing.T, tpm string) {
	t.Helper()
	var out bytes.Buffer
	if code := Run(t.Context(), []string{"device", "--tpm", tpm, "--identify"}, nil, &out, &out); code != exitOK {
		t.Fatalf("exit status %d\n%s", code, out.String())
	}
	id := strings.Fields(out.String())[2]
	runExample(t, "", "berth enrollment create "+id+" --tpm @ek.b64", tpm)
}

// ends are the commands that run until they are interrupted, and what they have
// said by then.
var ends = map[string]string{
	"berth serve":    "msg=serving",
	"berth dev":      "Stop the server with Ctrl-C",
	"berth hub tail": "hello",
}

// runExample runs a line of help. The only things in it that this machine may not
// have are the chip, and an authority that everybody knows for what plays Azure.
func runExample(t *testing.T, command, line, tpm string) {
	t.Helper()
	words := splitLine(strings.NewReplacer(
		"/dev/tpmrm0", tpm,
		"--from-connection-string-file", "--from-ca azure-ca.pem --from-connection-string-file",
		"--to-connection-string-file", "--to-ca azure-ca.pem --to-connection-string-file",
	).Replace(line))
	if len(words) == 0 || words[0] != "berth" {
		t.Fatalf("%q is no command", line)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &watch{said: ends[command], then: cancel}
	if code := Run(ctx, words[1:], strings.NewReader(""), out, out); code != exitOK {
		t.Errorf("%s\nexit status %d\n%s", strings.TrimSpace(line), code, out.all.String())
	}
	if out.said != "" && !strings.Contains(out.all.String(), out.said) {
		t.Errorf("%s\nnever said %q:\n%s", strings.TrimSpace(line), out.said, out.all.String())
	}
}

// A watch ends a command once it has said something.
type watch struct {
	said string
	then func()

	mu  sync.Mutex // guards all
	all bytes.Buffer
}

func (w *watch) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(b)
	if w.said != "" && strings.Contains(w.all.String(), w.said) {
		w.then()
	}
	return len(b), nil
}

// splitLine cuts a line into words as a shell does, as far as examples need it:
// at blanks outside of quotes.
func splitLine(line string) []string {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		end := strings.IndexByte(line, ' ')
		switch quote := line[:1]; {
		case quote == "'" || quote == `"`:
			word, rest, _ := strings.Cut(line[1:], quote)
			words, line = append(words, word), rest
		case end < 0:
			words, line = append(words, line), ""
		default:
			words, line = append(words, line[:end]), line[end:]
		}
	}
	return words
}
