// Command tpmbridge lets TPM 2.0 clients that know only the simulator's TCP
// protocol, or the older user-mode resource manager of Linux, work with swtpm,
// which speaks a raw command stream. It exists so that vendors' device SDKs can
// be run unmodified against a software TPM.
//
//	tpmbridge -swtpm unix:/path/to/socket -listen 127.0.0.1:2323 -framing rm
//	tpmbridge -swtpm unix:/path/to/socket -listen 127.0.0.1:2321 -framing mssim
//
// It holds the software TPM's one connection for as long as it runs, and passes
// on the commands of any number of clients one at a time. With mssim the
// platform port is the one after -listen. It gives access to the TPM to whoever
// can connect: listen on loopback only.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/berth-iot/berth/hsm/tpm2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

// run returns the exit code: 0 when it was told to stop, 1 when it could not
// go on, 2 when it was asked for something else than it does.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("tpmbridge", flag.ContinueOnError)
	flags.SetOutput(stderr)
	where := flags.String("swtpm", "", "the software TPM, as unix:/path/to/socket")
	listen := flags.String("listen", "127.0.0.1:2323", "the `address` to serve clients on")
	framing := flags.String("framing", "rm", "what clients speak: rm (resource manager) or mssim (simulator)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	logger := log.New(stderr, "tpmbridge: ", 0)
	if *where == "" || flags.NArg() > 0 || (*framing != "rm" && *framing != "mssim") {
		logger.Print("-swtpm is needed, and -framing is rm or mssim")
		flags.Usage()
		return 2
	}
	if err := serve(ctx, *where, *listen, *framing, logger); err != nil {
		logger.Print(err)
		return 1
	}
	return 0
}

// serve listens until ctx ends. It logs where, once clients may come.
func serve(ctx context.Context, where, listen, framing string, logger *log.Logger) error {
	tpm, err := tpm2.Open(ctx, where)
	if err != nil {
		return err
	}
	defer tpm.Close()
	b := &bridge{tpm: tpm, legacy: framing == "rm"}
	commands, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer commands.Close()
	ports := []port{{commands, b.commands}}
	if framing == "mssim" {
		platform, err := net.Listen("tcp", nextPort(commands.Addr()))
		if err != nil {
			return fmt.Errorf("platform port: %w", err)
		}
		defer platform.Close()
		ports = append(ports, port{platform, b.platform})
	}
	logger.Printf("serving %s as %s on %s", where, framing, commands.Addr())
	return accept(ctx, ports, logger)
}

func nextPort(a net.Addr) string {
	tcp := a.(*net.TCPAddr)
	return net.JoinHostPort(tcp.IP.String(), strconv.Itoa(tcp.Port+1))
}
