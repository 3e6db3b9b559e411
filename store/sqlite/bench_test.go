package sqlite

import (
	"testing"

	"github.com/berth-iot/berth/store/storetest"
)

func openBench(b testing.TB) storetest.Store { return openTest(b) }

func BenchmarkRegister(b *testing.B) { storetest.BenchmarkRegister(b, openBench) }
func BenchmarkImport(b *testing.B)   { storetest.BenchmarkImport(b, openBench) }
func BenchmarkEntry(b *testing.B)    { storetest.BenchmarkEntry(b, openBench) }
func BenchmarkAppend(b *testing.B)   { storetest.BenchmarkAppend(b, openBench) }
