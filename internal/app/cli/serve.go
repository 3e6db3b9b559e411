package cli

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app"
)

func newServe(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server of a data directory",
		Long: `Run the server: the provisioning service and its hubs on one HTTPS listener, as
berth.toml in the data directory says. It stops at SIGTERM or SIGINT, after
running requests have finished. /healthz and /readyz answer without a token.`,
		Example: `  berth serve --data ./data`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := app.LoadConfig(t.data)
			if err != nil {
				return err
			}
			app.TuneMemory(config)
			return t.serve(c.Context(), config)
		},
	}
}

func (t *terminal) serve(ctx context.Context, config app.Config) error {
	server, err := app.Open(ctx, config, Version(), t.logger(config.Log))
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// logger writes to standard error as the configuration says.
func (t *terminal) logger(c app.LogConfig) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // Validate checked it
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(t.err, o))
	}
	return slog.New(slog.NewTextHandler(t.err, o))
}
