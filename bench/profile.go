package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/berth-iot/berth/internal/app"
)

// profiledRole makes this program the server, the same as "berth serve", with a
// CPU profiler in it. Its argument is the data directory. Each line of its
// standard input is answered with a line: the name of a file begins a profile
// in that file, an empty line ends it. The server ends with its input.
const profiledRole = "serve-profiled"

func serveProfiled(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	if len(args) != 1 {
		return errors.New(profiledRole + " takes a directory")
	}
	config, err := app.LoadConfig(args[0])
	if err != nil {
		return err
	}
	app.TuneMemory(config)
	s, err := app.Open(ctx, config, "bench", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		if err := profileOnDemand(in, out); err != nil {
			fmt.Fprintf(log, "bench: profiling: %v\n", err)
		}
	}()
	return s.Run(ctx)
}

func profileOnDemand(in io.Reader, out io.Writer) error {
	var file *os.File
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		switch name := orders.Text(); {
		case name != "" && file == nil:
			var err error
			if file, err = os.Create(name); err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(file); err != nil {
				return err
			}
		case name == "" && file != nil:
			pprof.StopCPUProfile()
			if err := file.Close(); err != nil {
				return err
			}
			file = nil
		default:
			return errors.New("out of turn")
		}
		fmt.Fprintln(out, "done")
	}
	return orders.Err()
}

// A profiler tells a server in the profiledRole what to do.
type profiler struct {
	dir     string
	taken   int // profiles
	orders  io.Writer
	answers *bufio.Reader
}

func (s *server) startProfiled(ctx context.Context, dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r, w := io.Pipe()
	s.process, err = start(ctx, filepath.Join(s.dir, "server.log"), w, program, profiledRole, s.data)
	if err != nil {
		return err
	}
	go func(p *process) {
		<-p.done
		w.Close()
	}(s.process)
	s.profiler = &profiler{dir: dir, orders: s.in, answers: bufio.NewReader(r)}
	return nil
}

// begin starts a profile of what is measured next. A nil profiler does nothing.
func (p *profiler) begin(key string) error {
	if p == nil {
		return nil
	}
	p.taken++
	return p.order(filepath.Join(p.dir, fmt.Sprintf("%s-%d.prof", key, p.taken)))
}

// end ends the profile.
func (p *profiler) end() error {
	if p == nil {
		return nil
	}
	return p.order("")
}

func (p *profiler) order(text string) error {
	if _, err := fmt.Fprintln(p.orders, text); err != nil {
		return err
	}
	_, err := p.answers.ReadString('\n')
	return err
}
