package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/internal/app/cli/manifest"
)

// planParallel is how many things are looked at or written at a time.
const planParallel = 8

// An action is what a step does.
type action string

// The actions.
const (
	toCreate action = "create"
	toUpdate action = "update"
	toDelete action = "delete"
	toNone   action = "none"
)

// A step makes one document true.
type step struct {
	Action  action   `json:"action"`
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Members []string `json:"members,omitempty"` // that an update changes
	Place   string   `json:"place"`             // of the document

	// do takes the step, if nobody changed the thing since it was planned.
	do func(context.Context) error
}

// A wish is a document that was understood.
type wish struct {
	manifest.Document
	rank int // of its kind: the lower ones are made first
	name string
	// plan looks at what there is.
	plan planner
}

// A manifestKind is one kind of thing that documents speak of.
type manifestKind struct {
	kind string
	// read understands a document, and returns the name of what it is about.
	read func(d manifest.Document) (name string, plan planner, err error)
}

// manifestKinds are in the order in which things are made; what one needs comes
// before it. They are removed the other way round.
var manifestKinds = []manifestKind{
	{"linkedHub", readHubDocument},
	{"policy", readPolicyDocument},
	{"caCertificate", readCADocument},
	{"enrollmentGroup", group.readDocument},
	{"enrollment", individual.readDocument},
}

// An applier makes a service what manifests say.
type applier struct {
	*operator
	files    []string
	yes      bool // nobody need be asked
	exitCode bool

	enrollments *service.Client
	management  *admin.Client
}

const manifestHelp = `
A file is YAML, or JSON, of any number of documents; of a directory, those that end
in .yaml, .yml or .json are read. A document has the members that the API shows of
the thing, and

  kind     enrollment, enrollmentGroup, linkedHub, policy or caCertificate
  absent   true for a thing that is not to be there

and a policy of a hub has the hub's host as its member hub, a linkedHub with a new
connection string that is not to be tried out has untested: true.

Members that the API has and the document has not are as by default. What does not
belong into such a file stands in one beside it: instead of a member x there may be
xFile, the name of a file with its text, as in primaryKeyFile, certificateFile or
connectionStringFile. Symmetric keys that no document gives are made by the service,
and those that are there stay.

Things that no document speaks of are left alone.`

func newApply(t *terminal) *cobra.Command {
	a := &applier{}
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the service what files say",
		Long: `Make enrollments, groups, hubs, policies and CA certificates what files say. First
everything is read, compared with what there is, and the plan shown; then the plan is
carried out, step by step. A step is not taken where somebody changed the thing since
it was planned. Applying again what was applied changes nothing.
` + manifestHelp,
		Example: `  berth apply -f site.yaml --yes
  berth apply -f manifests --yes -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error { return a.apply(c.Context()) },
	}
	a.operator = newOperator(t, c)
	a.filesFlag(c)
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "carry out the plan without asking")
	return c
}

func newDiff(t *terminal) *cobra.Command {
	a := &applier{}
	c := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what berth apply would change",
		Long: `Compare what files say with what there is, and show what berth apply would do. It
changes nothing.
` + manifestHelp,
		Example: `  berth diff -f site.yaml
  berth diff -f manifests -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			plan, err := a.plan(c.Context())
			if err != nil {
				return err
			}
			if err := a.showPlan(plan); err != nil {
				return err
			}
			if n := changes(plan); n > 0 && a.exitCode {
				return fmt.Errorf("%d thing(s) are not as the files say", n)
			}
			return nil
		},
	}
	a.operator = newOperator(t, c)
	a.filesFlag(c)
	c.Flags().BoolVar(&a.exitCode, "exit-code", false, "fail where something is not as the files say")
	return c
}

func (a *applier) filesFlag(c *cobra.Command) {
	c.Flags().StringArrayVarP(&a.files, "file", "f", nil, "`file` or directory with documents, - for standard input; repeat for more")
	if err := c.MarkFlagRequired("file"); err != nil {
		panic(err) // there is no such flag
	}
}

func (a *applier) apply(ctx context.Context) error {
	plan, err := a.plan(ctx)
	if err != nil {
		return err
	}
	n := changes(plan)
	if !a.json() || n == 0 {
		if err := a.showPlan(plan); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	if err := a.ask(n); err != nil {
		return err
	}
	for i, s := range plan {
		if s.Action == toNone {
			continue
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %s %s: %w\n%d of %d steps are done; apply again to go on", s.Place, s.Kind, s.Name, err, changes(plan[:i]), n)
		}
		fmt.Fprintf(a.err, "%sd %s %s\n", s.Action, s.Kind, s.Name)
	}
	if a.json() {
		return a.showPlan(plan)
	}
	return nil
}

// ask lets the person at the terminal say whether the plan is to be carried out.
func (a *applier) ask(n int) error {
	if a.yes {
		return nil
	}
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) || slices.Contains(a.files, "-") {
		return usageError{errors.New("nobody is there to be asked: --yes carries out the plan, and berth diff shows it alone")}
	}
	fmt.Fprintf(a.err, "Carry out %d step(s)? Only yes is a yes: ", n)
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil || answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// plan reads the files and looks at what there is.
func (a *applier) plan(ctx context.Context) ([]step, error) {
	wishes, err := a.read()
	if err != nil {
		return nil, err
	}
	if a.enrollments, err = a.service(); err != nil {
		return nil, err
	}
	if a.management, err = a.admin(); err != nil {
		return nil, err
	}
	plan := make([]step, len(wishes))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(planParallel)
	for i, w := range wishes {
		work.Go(func() error {
			s, err := w.plan(ctx, a)
			if err != nil {
				return fmt.Errorf("%s: %s %s: %w", w.Place(), w.Kind, w.name, err)
			}
			s.Kind, s.Name, s.Place = w.Kind, w.name, w.Place()
			plan[i] = s
			return nil
		})
	}
	return plan, work.Wait()
}

// read understands the documents, and puts them in the order in which they are to
// become true.
func (a *applier) read() ([]wish, error) {
	documents, faults, err := manifest.Read(a.in, a.files...)
	if err != nil {
		return nil, err
	}
	var wishes []wish
	places := make(map[string]string)
	for _, d := range documents {
		w, err := understand(d)
		if err == nil {
			about := w.Kind + " " + strings.ToLower(w.name)
			if before := places[about]; before != "" {
				err = fmt.Errorf("%s %s: is there twice, also in %s", w.Kind, w.name, before)
			}
			places[about] = d.Place()
		}
		if err != nil {
			faults = append(faults, manifest.Fault{File: d.File, Line: d.Line, Reason: err.Error()})
			continue
		}
		wishes = append(wishes, w)
	}
	if len(faults) > 0 {
		slices.SortStableFunc(faults, func(f, g manifest.Fault) int {
			return cmp.Or(strings.Compare(f.File, g.File), f.Line-g.Line)
		})
		if a.json() {
			if err := a.printJSON(map[string][]manifest.Fault{"faults": faults}); err != nil {
				return nil, err
			}
		}
		lines := make([]string, len(faults))
		for i, f := range faults {
			lines[i] = f.Error()
		}
		return nil, fmt.Errorf("%d fault(s), and nothing was changed:\n%s", len(faults), strings.Join(lines, "\n"))
	}
	slices.SortStableFunc(wishes, func(v, w wish) int { return v.turn() - w.turn() })
	return wishes, nil
}

// turn orders wishes: what is to go goes before something else comes, first what
// others do not need; what is to be is made after what it needs.
func (w wish) turn() int {
	if w.Absent {
		return -w.rank
	}
	return w.rank
}

func understand(d manifest.Document) (wish, error) {
	for i, k := range manifestKinds {
		if k.kind != d.Kind {
			continue
		}
		name, plan, err := k.read(d)
		return wish{d, i + 1, name, plan}, err
	}
	var known []string
	for _, k := range manifestKinds {
		known = append(known, k.kind)
	}
	return wish{}, fmt.Errorf("kind: %q is not known; %s are", d.Kind, strings.Join(known, ", "))
}

// strictly reads a document that has no member but those of v.
func strictly(d manifest.Document, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(d.Body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil {
		_, err = decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
	// What encoding/json says of itself is of no use to the reader of a file.
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

func changes(plan []step) (n int) {
	for _, s := range plan {
		if s.Action != toNone {
			n++
		}
	}
	return n
}

func (a *applier) showPlan(plan []step) error {
	if a.json() {
		return a.printJSON(plan)
	}
	if changes(plan) == 0 {
		return a.done("%d thing(s) are as the files say", len(plan))
	}
	rows := [][]string{{"STEP", "KIND", "NAME", "CHANGES", "BECAUSE OF"}}
	for _, s := range plan {
		if s.Action != toNone {
			rows = append(rows, []string{string(s.Action), s.Kind, s.Name, strings.Join(s.Members, ", "), s.Place})
		}
	}
	return a.table(rows)
}
