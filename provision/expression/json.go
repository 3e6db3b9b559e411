package expression

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/berth-iot/berth/wire/dpsjson"
)

// appendJSON appends v, which is depth values deep inside a result. It stops
// where the result is larger than an answer may be: values share their parts,
// and a small one may be enormous when it is written down.
func appendJSON(b []byte, v ref.Val, depth int) ([]byte, error) {
	if len(b) > dpsjson.MaxAllocationAnswer {
		return nil, fmt.Errorf("the result has more than %d bytes as JSON", dpsjson.MaxAllocationAnswer)
	}
	if depth > dpsjson.MaxDepth {
		return nil, fmt.Errorf("the result is nested deeper than %d", dpsjson.MaxDepth)
	}
	switch v := v.(type) {
	case types.Null:
		return append(b, "null"...), nil
	case types.Bool:
		return strconv.AppendBool(b, bool(v)), nil
	case types.Int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case types.Double:
		if math.IsInf(float64(v), 0) || math.IsNaN(float64(v)) {
			return nil, errors.New("the result has a number that JSON cannot write")
		}
		return appendEncoded(b, float64(v))
	case types.String:
		return appendEncoded(b, string(v))
	case traits.Mapper:
		return appendObject(b, v, depth)
	case traits.Lister:
		return appendArray(b, v, depth)
	}
	return nil, fmt.Errorf("the result has a value of type %s, which JSON cannot write", v.Type().TypeName())
}

func appendEncoded(b []byte, v any) ([]byte, error) {
	text, err := dpsjson.Encode(v)
	return append(b, text...), err
}

func appendArray(b []byte, list traits.Lister, depth int) (_ []byte, err error) {
	b = append(b, '[')
	for it, first := list.Iterator(), true; it.HasNext() == types.True; first = false {
		if !first {
			b = append(b, ',')
		}
		if b, err = appendJSON(b, it.Next(), depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// appendObject appends a map by its keys' order, so that equal maps are equal as
// JSON.
func appendObject(b []byte, m traits.Mapper, depth int) (_ []byte, err error) {
	if n, ok := m.Size().(types.Int); !ok || n > dpsjson.MaxAllocationAnswer {
		return nil, fmt.Errorf("the result has more than %d bytes as JSON", dpsjson.MaxAllocationAnswer)
	}
	members := map[string]ref.Val{}
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, fmt.Errorf("the result has a map with a key of type %s; JSON's are strings", key.Type().TypeName())
		}
		members[string(name)] = m.Get(key)
	}
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendEncoded(b, name); err != nil {
			return nil, err
		}
		if b, err = appendJSON(append(b, ':'), members[name], depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}
