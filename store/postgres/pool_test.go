package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
)

func TestConnectionsAreBoundedAndUsedAgain(t *testing.T) {
	s := openAt(t, testDSN(t)+" pool_max_conns=2", serverKey(t))
	a, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := s.ListScopes(ctx)
		waiting <- err
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a third connection: %v", err)
	}
	s.pool.release(a)
	again, err := s.pool.acquire(t.Context())
	if err != nil || again != a {
		t.Errorf("got another connection, %v", err)
	}
	s.pool.release(a)
	s.pool.release(b)
}

func TestADeadIdleConnectionIsReplacedBeforeItIsTrusted(t *testing.T) {
	s := openTest(t)
	c, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid := c.PgConn().PID()
	s.pool.release(c)
	sql(t, testServer(t).DSN(), "SELECT pg_terminate_backend("+fmt.Sprint(pid)+")")
	c.since = c.since.Add(-idleBeforePing) // it has been idle for long
	if err := putRegistration(t.Context(), s, "pump-7", func() {}); err != nil {
		t.Error(err)
	}
}

func TestAConnectionLeftInATransactionIsGivenUp(t *testing.T) {
	s := openTest(t)
	c, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), begin); err != nil {
		t.Fatal(err)
	}
	s.pool.release(c)
	if !c.IsClosed() {
		t.Error("it is used again")
	}
}

func TestAStandbyIsLeft(t *testing.T) {
	s := openTest(t)
	c, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Exec(t.Context(), "BEGIN READ ONLY; CREATE TABLE t ()")
	if err := sorted(c.Conn, err); errs.KindOf(err) != errs.Unavailable || !c.IsClosed() {
		t.Errorf("%v; closed: %t", err, c.IsClosed())
	}
	s.pool.release(c)
}

func TestTheDSNHasTheLastWord(t *testing.T) {
	config, setup, connections, err := parse("postgres://berth@localhost/berth?pool_max_conns=3&statement_timeout=7s&connect_timeout=9")
	if err != nil {
		t.Fatal(err)
	}
	if connections != 3 || config.RuntimeParams["pool_max_conns"] != "" {
		t.Errorf("%d connections; the server is sent %v", connections, config.RuntimeParams)
	}
	if strings.Contains(setup, "'statement_timeout'") || config.RuntimeParams["statement_timeout"] != "7s" || config.ConnectTimeout != 9*time.Second {
		t.Errorf("%s; %v; %v", setup, config.RuntimeParams, config.ConnectTimeout)
	}
	if !strings.Contains(setup, "'synchronous_commit'") {
		t.Errorf("commits are as durable as the role has them: %s", setup)
	}
}
