package expression

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// CEL bounds the steps of an expression by their cost. A step is not always a
// small one, though: values share their parts, so [x, x] of [x, x] of … costs
// little to make and takes forever to compare. What values weigh with
// everything inside is therefore bounded where they are made, and paid for
// where it is walked.
const (
	// costLimit is some milliseconds of work. An expression that does what it is
	// for costs less than a thousandth of it.
	costLimit = 1 << 18
	// maxWeight bounds a list or a map that is written down: enough for all that
	// a device can send.
	maxWeight = 1 << 16
	// maxValueDepth bounds how deep values are inside each other.
	maxValueDepth = 64
)

var scale = types.NewSizeCalculator(
	types.SizeCalculatorMaxDepth(maxValueDepth), types.SizeCalculatorMaxTraversal(maxWeight),
)

// A weigher charges for what the values of an operation weigh, where CEL's own
// accounting looks at their outermost layer or not at all.
type weigher struct{}

// CallCost implements interpreter.ActualCostEstimator.
func (weigher) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if len(args) != 2 {
		return nil
	}
	var cost uint64
	switch function {
	case operators.Equals, operators.NotEquals, operators.In:
		cost = 1 + weight(args[0]) + weight(args[1])
	case operators.Add:
		// The left may be a list that a comprehension is still making, and that
		// was paid for piece by piece.
		added, ok := args[1].(traits.Lister)
		if !ok {
			return nil
		}
		cost = 1 + weight(added)
	default:
		return nil
	}
	return &cost
}

func weight(v ref.Val) uint64 { return uint64(scale.AggregateSize(v)) }

// boundLiterals keeps lists and maps that are written down within maxWeight.
func boundLiterals(step interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if literal, ok := step.(interpreter.InterpretableConstructor); ok {
		return bounded{literal}, nil
	}
	return step, nil
}

type bounded struct {
	interpreter.InterpretableConstructor
}

// Exec implements interpreter.InterpretableV2.
func (b bounded) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return b.bound(b.InterpretableConstructor.Exec(frame))
}

// Eval implements interpreter.Interpretable.
func (b bounded) Eval(variables interpreter.Activation) ref.Val {
	return b.bound(b.InterpretableConstructor.Eval(variables))
}

func (b bounded) bound(v ref.Val) ref.Val {
	if types.IsUnknownOrError(v) || weight(v) <= maxWeight {
		return v
	}
	return types.NewErrWithNodeID(b.ID(), "a %s of more than %d values", v.Type().TypeName(), maxWeight)
}
