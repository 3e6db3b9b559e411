// Package pgtest runs a PostgreSQL server of its own for tests: a new cluster in
// a temporary directory, reached through a socket there and by nobody else, with
// fsync on. It can be killed and started again.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout bounds the time to the first answer, recovery after a kill
// included.
const startTimeout = 60 * time.Second

// A Server is a PostgreSQL server. Its methods but Stop may be called at the
// same time; Kill and Start in turns.
type Server struct {
	dir        string // has the cluster, the socket and the log
	programs   string // the directory of initdb and postgres
	credential *syscall.Credential
	settings   []string // arguments of postgres
	schemas    atomic.Int64

	process *os.Process   // the postmaster, of the last Start
	done    chan struct{} // closed when it has ended
}

// Start makes a cluster and runs its server, with settings such as
// "shared_buffers=1GB" beside its own. It uses the newest PostgreSQL that
// Debian's packages installed, or the one in the PATH; as root it becomes the
// user postgres.
func Start(ctx context.Context, settings ...string) (_ *Server, err error) {
	s := &Server{settings: []string{"-c", "listen_addresses=", "-c", "shared_buffers=16MB"}}
	for _, v := range settings {
		s.settings = append(s.settings, "-c", v) // the last one counts
	}
	defer func() {
		if err != nil {
			s.Stop()
			err = fmt.Errorf("starting a PostgreSQL server: %w", err)
		}
	}()
	if s.programs, err = findPrograms(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	if err := s.becomePostgres(); err != nil {
		return nil, err
	}
	initdb := s.command(ctx, "initdb", "--pgdata", s.data(), "--username", "postgres", "--auth", "trust",
		"--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return s, s.Start(ctx)
}

func findPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("it is not installed; run apt-get install postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// becomePostgres gives the directory to the user whom the programs run as,
// which cannot be root.
func (s *Server) becomePostgres() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("%w; run apt-get install postgresql", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	s.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return errors.Join(err1, err2, os.Chown(s.dir, int(uid), int(gid)))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(s.programs, program), args...)
	c.Dir = s.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	return c
}

// Start runs the server again after Kill, and returns when it takes
// connections.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.run(); err != nil {
			return err
		}
		for ended := false; !ended; {
			c, err := pgx.Connect(ctx, s.DSN())
			if err == nil {
				return c.Close(ctx)
			}
			select {
			case <-s.done: // as it does while processes of a killed one go
				ended = true
			case <-ctx.Done():
				log, _ := os.ReadFile(s.log())
				return fmt.Errorf("the server does not answer: %w; it said:\n%s", err, log)
			case <-tick.C:
			}
		}
		<-tick.C
	}
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// run starts the process, and stays with it to its end on one thread: the
// kernel counts the thread that forked as the parent to die with.
func (s *Server) run() error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := s.command(context.Background(), "postgres", append([]string{"-D", s.data(), "-k", s.dir}, s.settings...)...)
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd.SysProcAttr)
	s.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		defer log.Close()
		err := cmd.Start()
		s.process = cmd.Process
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	return <-started
}

// DSN names the server's database "postgres".
func (s *Server) DSN() string { return "host=" + s.dir + " user=postgres dbname=postgres" }

// Directory has the server's socket.
func (s *Server) Directory() string { return s.dir }

// Schema makes an empty schema in the database and returns a DSN that leads
// there.
func (s *Server) Schema(ctx context.Context) (dsn string, err error) {
	name := fmt.Sprintf("test_%d", s.schemas.Add(1))
	c, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, "CREATE SCHEMA "+name)
	return s.DSN() + " search_path=" + name, err
}

// Kill kills the server's first process as kill -9 does. The others notice and
// end.
func (s *Server) Kill() error {
	err := s.process.Kill()
	<-s.done
	return err
}

// Stop ends the server and removes everything it has.
func (s *Server) Stop() error {
	if s.process != nil {
		s.process.Signal(syscall.SIGINT) // do not wait for those who are connected
		<-s.done
	}
	return os.RemoveAll(s.dir)
}
