// Package expression answers custom allocation with expressions in the Common
// Expression Language (CEL, cel.dev): no network, no state, no loops but over
// what is there.
//
// An expression reads the document that a webhook is sent, by the variables
// enrollmentGroup, individualEnrollment (one of the two is null),
// deviceRuntimeContext and linkedHubs. Its result is the host name of a linked
// hub, or a map with what a webhook may answer: iotHubHostName, initialTwin and
// payload. As always in CEL, JSON's numbers are doubles.
package expression

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/provision/custom"
)

const (
	// deadline is how long an evaluation may take; the cost limit ends most
	// earlier.
	deadline = 250 * time.Millisecond
	// interruptEvery is after how many steps of a comprehension the deadline is
	// looked at.
	interruptEvery = 100
	// maxNodes bounds the parts of an expression, and maxDepth how deep they are
	// inside each other.
	maxNodes = 4 << 10
	// maxSource is what an enrollment may hold, in characters.
	maxSource = 4 << 10
	maxDepth  = 64
	// maxPrograms bounds the expressions that are kept compiled.
	maxPrograms = 256
)

// An Evaluator is the provision.Chooser of enrollments that have an expression.
// It is safe for concurrent use.
type Evaluator struct {
	environment func() (*cel.Env, error)

	mu       sync.Mutex             // guards programs
	programs map[string]cel.Program // by source
}

// New returns an evaluator. Nothing of CEL is set up before the first
// expression is met.
func New() *Evaluator {
	return &Evaluator{environment: sync.OnceValues(newEnvironment), programs: map[string]cel.Program{}}
}

func newEnvironment() (*cel.Env, error) {
	document := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(
		cel.Variable("enrollmentGroup", cel.NullableType(document)),
		cel.Variable("individualEnrollment", cel.NullableType(document)),
		cel.Variable("deviceRuntimeContext", document),
		cel.Variable("linkedHubs", cel.ListType(cel.StringType)),
		cel.OptionalTypes(),
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ExpressionNestingDepthLimit(maxDepth),
		cel.ParserRecursionLimit(maxDepth),
	)
}

// Check reports why source is not an expression that can choose a hub, and
// where: "line 1, column 5: undeclared reference to 'hubs'".
func (e *Evaluator) Check(source string) error {
	_, err := e.program(source)
	return err
}

// Choose evaluates the expression of q's enrollment. See provision.Chooser.
func (e *Evaluator) Choose(ctx context.Context, q provision.Question) (*provision.Choice, error) {
	document, err := custom.Request(q)
	if err != nil {
		return nil, err
	}
	answer, err := e.evaluate(ctx, q.Entry.Custom.Expression, document)
	switch {
	case ctx.Err() != nil:
		return nil, errs.New(errs.Unavailable, errs.CodeCustomAllocation, "Custom allocation failed.").WithCause(context.Cause(ctx))
	case err != nil:
		return nil, custom.Failed(fmt.Errorf("evaluating the expression: %w", err))
	}
	return custom.Choice(answer, q.Linked)
}

// evaluate returns what a webhook would answer to document.
func (e *Evaluator) evaluate(ctx context.Context, source string, document []byte) ([]byte, error) {
	program, err := e.program(source)
	if err != nil {
		return nil, err
	}
	variables := map[string]any{"enrollmentGroup": nil, "individualEnrollment": nil}
	if err := json.Unmarshal(document, &variables); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	result, _, err := program.ContextEval(ctx, variables)
	if err != nil {
		return nil, fmt.Errorf("%.300s", err.Error())
	}
	return encode(result)
}

// program returns the program of an expression, compiled now or before.
func (e *Evaluator) program(source string) (cel.Program, error) {
	e.mu.Lock()
	p, ok := e.programs[source]
	e.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := e.compile(source)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.programs) >= maxPrograms {
		clear(e.programs) // those in use come back
	}
	e.programs[source] = p
	return p, nil
}

func (e *Evaluator) compile(source string) (cel.Program, error) {
	env, err := e.environment()
	if err != nil {
		return nil, fmt.Errorf("setting up CEL: %w", err)
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, where(issues)
	}
	switch result := checked.OutputType(); {
	case result.Kind() == types.StringKind, result.Kind() == types.DynKind:
	case result.Kind() == types.MapKind:
	default:
		return nil, fmt.Errorf("the result is of type %s; it must be a host name or a map that has one as iotHubHostName", result)
	}
	return env.Program(checked,
		cel.CostLimit(costLimit), cel.CostTracking(weigher{}), cel.CustomDecoratorV2(boundLiterals),
		cel.InterruptCheckFrequency(interruptEvery),
	)
}

// where tells of the first issue alone: what follows from it does not help.
func where(issues *cel.Issues) error {
	found := issues.Errors()
	if len(found) == 0 {
		return issues.Err()
	}
	message, _, _ := strings.Cut(found[0].Message, "\n")
	message = strings.TrimSuffix(message, " (in container '')")
	at := found[0].Location
	if at.Line() < 1 {
		return fmt.Errorf("%.300s", message)
	}
	return fmt.Errorf("line %d, column %d: %.300s", at.Line(), max(at.Column(), 0)+1, message)
}

// encode returns a result as a webhook would answer it.
func encode(result ref.Val) ([]byte, error) {
	if host, ok := result.(types.String); ok {
		result = types.NewStringStringMap(types.DefaultTypeAdapter, map[string]string{"iotHubHostName": string(host)})
	}
	if result.Type() != types.MapType {
		return nil, fmt.Errorf("the result is of type %s; it must be a host name or a map that has one as iotHubHostName", result.Type().TypeName())
	}
	return appendJSON(nil, result, 0)
}
