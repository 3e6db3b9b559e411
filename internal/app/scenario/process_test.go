package scenario

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/berth-iot/berth/internal/app"
)

// What tells the test's program to be a server.
const (
	serveDir     = "BERTH_TEST_SERVE"   // of this data directory
	servePolling = "BERTH_TEST_POLLING" // that answers no registration at once
	serveAhead   = "BERTH_TEST_AHEAD"   // whose clock is ahead by so much
)

// serveUntilKilled is the server that is killed. It says where it listens, and
// ends with whoever holds its standard input.
func serveUntilKilled(data string) int {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	config, err := app.LoadConfig(data)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	config.Provisioning.AnswerAtOnce = os.Getenv(servePolling) == ""
	if ahead, err := time.ParseDuration(os.Getenv(serveAhead)); err == nil {
		config.Now = func() time.Time { return time.Now().Add(ahead) }
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	server, err := app.Open(context.Background(), config, "test", log)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(server.Address(), server.MQTTAddress())
	if err := server.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A process is a server in a process of its own.
type process struct {
	*exec.Cmd
	address string
	mqtts   string        // the address for MQTT over TLS
	took    time.Duration // from its start until it listened
	output  bytes.Buffer
}

func startProcess(t *testing.T, data string, env ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(program)}
	p.Env = append(append(os.Environ(), serveDir+"="+data), env...)
	p.Stderr = &p.output
	if _, err := p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		p.kill()
		t.Fatalf("the server did not start: %s", &p.output)
	}
	if _, err := fmt.Sscan(line, &p.address, &p.mqtts); err != nil {
		t.Fatalf("the server said %q: %v", line, err)
	}
	p.took = time.Since(began)
	t.Cleanup(p.kill)
	return p
}

// kill ends the process as a power cut would, and returns when it is gone.
func (p *process) kill() {
	if p.ProcessState == nil {
		p.Process.Signal(syscall.SIGKILL)
		p.Wait()
	}
}
