// Berth takes a device from the factory floor to its hub: server, operator's
// command line and reference device in one program.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/berth-iot/berth/internal/app/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
