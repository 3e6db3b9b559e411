package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

var epoch = time.Date(2025, 6, 1, 12, 30, 0, 123456789, time.UTC)

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isKind(t *testing.T, err error, kind errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != kind {
		t.Errorf("error %v (%v), want one of kind %q", err, errs.KindOf(err), kind)
	}
}

// filled returns a T none of whose members is zero, each with a value of its
// own: a member that a store forgets shows, also one that is added later.
func filled[T any]() T {
	var v T
	n := 0
	fill(reflect.ValueOf(&v).Elem(), &n)
	return v
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(epoch.Add(time.Duration(*n))))
		return
	case json.RawMessage: // kept byte for byte: spaces, escapes, order and doubles
		v.SetBytes(fmt.Appendf(nil, "{ \"n\" :%d, \"<é>\\u003c\":1.0e1,\n\"n\": null }", *n))
		return
	case device.SymmetricKey:
		k, err := device.NewSymmetricKey(bytes.Repeat([]byte{byte(*n)}, 16+*n%49))
		if err != nil {
			panic(err)
		}
		v.Set(reflect.ValueOf(k))
		return
	case hub.Secret:
		v.Set(reflect.ValueOf(hub.NewSecret(fmt.Appendf(nil, "secret-%d", *n))))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(*n >> 8), byte(*n)}), 24)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("Text-%d <ü>", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint16, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n % 256))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	default:
		panic("storetest cannot fill a " + v.Type().String())
	}
}

// same fails the test where got differs from want. Times are the same when they
// are the same instant in UTC, symmetric keys when their bytes are; nil and
// empty slices differ.
func same(t *testing.T, got, want any) {
	t.Helper()
	if d := difference("", reflect.ValueOf(got), reflect.ValueOf(want)); d != "" {
		t.Errorf("%T%s", want, d)
	}
}

func difference(path string, got, want reflect.Value) string {
	if got.Type() != want.Type() {
		return fmt.Sprintf("%s is a %s, want a %s", path, got.Type(), want.Type())
	}
	unequal := func() string { return fmt.Sprintf("%s is %#v, want %#v", path, got, want) }
	switch w := want.Interface().(type) {
	case time.Time:
		if g := got.Interface().(time.Time); !g.Equal(w) || g.IsZero() != w.IsZero() || g.Location() != time.UTC {
			return fmt.Sprintf("%s is %s, want %s", path, g, w)
		}
		return ""
	case device.SymmetricKey:
		if !got.Interface().(device.SymmetricKey).Equal(w) {
			return path + " is another key"
		}
		return ""
	case hub.Secret:
		if !bytes.Equal(got.Interface().(hub.Secret).Bytes(), w.Bytes()) {
			return path + " is another secret"
		}
		return ""
	case netip.Prefix:
		if got.Interface() != want.Interface() {
			return unequal()
		}
		return ""
	}
	switch want.Kind() {
	case reflect.Pointer:
		if got.IsNil() || want.IsNil() {
			if got.IsNil() != want.IsNil() {
				return unequal()
			}
			return ""
		}
		return difference(path, got.Elem(), want.Elem())
	case reflect.Struct:
		for i := range want.NumField() {
			if d := difference(path+"."+want.Type().Field(i).Name, got.Field(i), want.Field(i)); d != "" {
				return d
			}
		}
		return ""
	case reflect.Slice:
		if got.IsNil() != want.IsNil() || got.Len() != want.Len() {
			return unequal()
		}
		if want.Type().Elem().Kind() == reflect.Uint8 {
			if !bytes.Equal(got.Bytes(), want.Bytes()) {
				return fmt.Sprintf("%s is other bytes, want %.100x", path, want.Bytes())
			}
			return ""
		}
		for i := range want.Len() {
			if d := difference(fmt.Sprintf("%s[%d]", path, i), got.Index(i), want.Index(i)); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(got.Interface(), want.Interface()) {
		return unequal()
	}
	return ""
}
