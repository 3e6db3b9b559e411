package postgres

import (
	"context"
	"errors"
	"fmt"
	"testing"

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
