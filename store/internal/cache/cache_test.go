package cache

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
)

type load = func(context.Context) (string, error)

func loads(v string) load { return func(context.Context) (string, error) { return v, nil } }

func want(t *testing.T, c *Cache[int, string], k int, want string, f load) {
	t.Helper()
	if got, err := c.Get(t.Context(), k, f); err != nil || got != want {
		t.Errorf("%d is %q, %v; want %q", k, got, err, want)
	}
}

func TestValuesAreKeptUntilForgotten(t *testing.T) {
	c := new(Cache[int, string])
	c.Forget(1)
	want(t, c, 1, "old", loads("old"))
	want(t, c, 2, "other", loads("other"))
	want(t, c, 1, "old", loads("new"))
	c.Forget(1)
	want(t, c, 1, "new", loads("new"))
	want(t, c, 2, "other", loads("not asked"))
	c.Clear()
	want(t, c, 1, "newest", loads("newest"))
	want(t, c, 2, "newest", loads("newest"))
}

func TestAValueThatChangesWhileItIsLoadedIsNotKept(t *testing.T) {
	c := new(Cache[int, string])
	for _, forget := range []func(){func() { c.Forget(1) }, c.Clear} {
		want(t, c, 1, "old", func(context.Context) (string, error) { forget(); return "old", nil })
		want(t, c, 1, "new", loads("new"))
		c.Forget(1)
	}
	want(t, c, 3, "kept", func(context.Context) (string, error) { c.Forget(2); return "kept", nil })
	want(t, c, 3, "kept", loads("not asked"))
}

func TestErrorsAreNotKept(t *testing.T) {
	c := new(Cache[int, string])
	if _, err := c.Get(t.Context(), 1, func(context.Context) (string, error) { return "", fs.ErrInvalid }); err != fs.ErrInvalid {
		t.Error(err)
	}
	want(t, c, 1, "found", loads("found"))

	func() {
		defer func() { recover() }()
		c.Get(t.Context(), 2, func(context.Context) (string, error) { panic("a bug") })
	}()
	want(t, c, 2, "found", loads("found"))
}

// slow starts a load of key 1 that goes on until release is called.
func slow(ctx context.Context, c *Cache[int, string], v string, err error) (release func(), result chan error) {
	end, result := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := c.Get(ctx, 1, func(context.Context) (string, error) { <-end; return v, err })
		result <- err
	}()
	synctest.Wait()
	return func() { close(end) }, result
}

func TestManyShareOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(Cache[int, string])
		release, leader := slow(t.Context(), c, "one", nil)
		for range 3 {
			go want(t, c, 1, "one", loads("another"))
		}
		gone, leave := context.WithCancel(t.Context())
		impatient := make(chan error)
		go func() { _, err := c.Get(gone, 1, loads("another")); impatient <- err }()
		synctest.Wait()
		leave()
		if err := <-impatient; !errors.Is(err, context.Canceled) {
			t.Errorf("who did not want to wait got %v", err)
		}
		release()
		if err := <-leader; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func TestNobodyIsGivenWhatWasForgottenBeforeTheyAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(Cache[int, string])
		release, leader := slow(t.Context(), c, "old", nil)
		c.Forget(1)
		want(t, c, 1, "new", loads("new"))
		release()
		<-leader
		want(t, c, 1, "new", loads("not asked"))
	})
}

func TestWhoGivesUpLeavesTheOthersToLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(Cache[int, string])
		release, leader := slow(t.Context(), c, "", context.Canceled)
		go want(t, c, 1, "loaded", loads("loaded"))
		synctest.Wait()
		release()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func TestACacheIsBounded(t *testing.T) {
	c := new(Cache[int, string])
	for i := range 3 * maxKept {
		want(t, c, i, "many", loads("many"))
	}
	if len(c.values) > maxKept {
		t.Errorf("%d values", len(c.values))
	}
	want(t, c, 3*maxKept-1, "many", loads("the newest stays"))
}
