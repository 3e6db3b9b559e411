package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub/query"
)

// What one page of a query is held to. A page that reaches one of the bounds has
// what was found so far, and there is another one behind it.
const (
	MaxPage     = 1000 // rows
	maxPageSize = 8 << 20
	maxLooks    = 20_000 // twins that are looked at
	pageTime    = time.Second
)

// aggregateTime bounds the work for a query that aggregates, which has one page.
const aggregateTime = 50 * time.Second

// A Page is a part of what a query finds: twins when it asks for whole documents,
// and rows, which are JSON objects, when it names columns.
type Page struct {
	Whole        bool
	Twins        []Found // without keys
	Rows         []json.RawMessage
	Continuation string // names the next page; empty on the last one
}

// Query answers a text in the query language of IoT Hub over the twins of a hub's
// devices or modules. limit is the most rows of a page, up to [MaxPage].
// continued is the continuation of the page before, of the same query, and empty
// for the first page. It takes ServiceConnect.
//
// A page may be empty and not the last one. What changes between two pages can be
// missing or come twice when its values moved behind or before what was read. An
// error of kind errs.Invalid says what is wrong with the text or the
// continuation, or that the query aggregates more than can be looked at in time;
// one of kind errs.Busy that too many others look at many twins.
func (s *Service) Query(ctx context.Context, caller access.Caller, hub, text string, limit int, continued string) (Page, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return Page{}, err
	}
	return s.find(ctx, hub, text, limit, continued, clients)
}

// An asker is who asks a query: a client, of whom there can be too many, or the
// process itself for configurations, one query after the other.
type asker bool

const (
	clients asker = false
	own     asker = true
)

// find answers a query.
func (s *Service) find(ctx context.Context, hub, text string, limit int, continued string, by asker) (Page, error) {
	q, err := query.Parse(text)
	if err != nil {
		return Page{}, err
	}
	if limit < 1 || limit > MaxPage {
		return Page{}, invalid("a page has 1 to %d rows, not %d", MaxPage, limit)
	}
	w := s.walk(hub, q)
	w.entered = by == own
	defer w.end()
	if continued == "" {
		err = w.plan(ctx)
	} else {
		err = w.resume(continued)
	}
	if err != nil {
		return Page{}, err
	}
	if q.Aggregates() {
		return w.aggregate(ctx)
	}
	page, err := w.page(ctx, limit)
	if err != nil || w.about {
		return page, err
	}
	found := make([]*Found, len(page.Twins))
	for i := range page.Twins {
		found[i] = &page.Twins[i]
	}
	return page, s.learn(ctx, found)
}

// aggregate answers a query whose rows are made of many documents.
func (w *walk) aggregate(ctx context.Context) (Page, error) {
	groups := w.query.Groups()
	if w.query.CountsAll() && !w.modules {
		n, err := w.devices(ctx)
		if err != nil {
			return Page{}, err
		}
		groups.Count(n)
	} else if err := w.all(ctx, func(d queriedTwin) error { return groups.Add(d) }); err != nil {
		return Page{}, err
	}
	var page Page
	for _, row := range groups.Rows() {
		if w.query.Top > 0 && len(page.Rows) == w.query.Top {
			break
		}
		page.Rows = append(page.Rows, row)
	}
	return page, nil
}

// devices counts all devices of the hub.
func (w *walk) devices(ctx context.Context) (int, error) {
	counted, err := w.service.registry.Statistics(ctx, w.hub)
	if err != nil {
		return 0, fmt.Errorf("counting the devices of %s: %w", w.hub, err)
	}
	return counted.Total, nil
}

// count counts the twins that satisfy the query, and looks at no more of them than
// that takes.
func (w *walk) count(ctx context.Context) (n int, err error) {
	defer w.end()
	w.members, w.about = Members{}, false
	if where := w.query.Where; where != nil {
		where.Reads(w.look)
	} else if !w.modules {
		return w.devices(ctx)
	}
	if err := w.plan(ctx); err != nil {
		return 0, err
	}
	err = w.all(ctx, func(queriedTwin) error { n++; return nil })
	return n, err
}

// A walk goes through the twins that may satisfy a query: those that an index has
// under a value that the condition asks for, or those of some devices, or all.
type walk struct {
	service *Service
	hub     string
	query   *query.Query
	modules bool
	about   bool    // the query looks at what nobody writes
	members Members // that it looks at

	ids     []idRange // where there is no index
	indexes []index   // that the query could go by
	by      int       // the one that it goes by, or -1
	from    position
	left    int // rows that it may have

	began   time.Time
	looks   int  // twins that it looked at
	entered bool // it need not wait for a place among the scans
	scans   bool // it has one
}

type (
	idRange    struct{ first, last device.ID }
	valueRange struct{ low, high []byte }
)

// An index is a path and the values that a condition wants there.
type index struct {
	term   query.Term
	path   int64
	ranges []valueRange
}

// has reports whether a twin belongs under a value. An entry of the index can be
// left over from what an older program changed, or of another path with the same
// number, and a twin that has entries under two values would be found twice. That
// is also why entries are not counted in place of twins: a device chooses the names
// of what it reports.
func (in index) has(d queriedTwin, value []byte) bool {
	if in.term.Element { // which is only indexed of parentScopes
		return slices.ContainsFunc(d.Identity.ParentScopes(), func(scope string) bool {
			return bytes.Equal(query.Encode(query.TextValue(scope)), value)
		})
	}
	return bytes.Equal(query.Encode(d.Lookup(in.term.Path)), value)
}

// A position is how far a walk is: behind a place, and with an index behind an
// entry.
type position = TwinEntry

// unlimited is how many rows a query without TOP may have.
const unlimited = int(^uint(0) >> 1)

// walk returns the walk of a query before its first step, through its devices.
func (s *Service) walk(hub string, q *query.Query) *walk {
	w := &walk{service: s, hub: hub, query: q, modules: q.From == query.Modules, ids: []idRange{{"", lastID}}, by: -1, left: unlimited, began: s.now()}
	if q.Top > 0 {
		w.left = q.Top
	}
	q.Reads(w.look)
	if q.Whole() {
		w.members = AllMembers
	}
	for _, t := range q.Where.Terms() {
		if ids, ok := deviceRanges(t); ok {
			w.ids = ids
		}
		if key, ok := indexedPath(w.modules, t); ok {
			w.indexes = append(w.indexes, index{t, pathNumber(hub, w.modules, key), valueRanges(t.Ranges)})
		}
	}
	return w
}

// look notes what a path leads to.
func (w *walk) look(p query.Path) {
	m := &w.members
	switch p[0].Name {
	case "connectionState", "connectionStateUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount":
		w.about = true
	case "deviceId", "moduleId", "status", "modelId", "version", "capabilities", "parentScopes":
	case "tags":
		m.Tags = true
	case "configurations":
		m.Configurations = true
	case "properties":
		whole := len(p) == 1
		m.Desired = m.Desired || whole || p[1].Name == "desired"
		m.Reported = m.Reported || whole || p[1].Name == "reported"
		m.Metadata = m.Metadata || len(p) < 3 || p[2].Name == "$metadata"
	default:
		m.Identity = true
	}
}

// plan takes the index with the fewest entries, when it knows all twins and the
// query does not name its devices.
func (w *walk) plan(ctx context.Context) error {
	if len(w.indexes) == 0 || w.namesDevices() {
		return nil
	}
	unindexed, err := w.service.registry.UnindexedTwins(ctx, 1)
	if err != nil {
		return fmt.Errorf("planning a query at %s: %w", w.hub, err)
	}
	if len(unindexed) > 0 {
		return nil
	}
	if len(w.indexes) == 1 {
		w.by = 0
		return nil
	}
	for i, fewest := 0, maxProbe; i < len(w.indexes); i++ {
		n, err := w.probe(ctx, w.indexes[i], fewest)
		if err != nil {
			return fmt.Errorf("planning a query at %s: %w", w.hub, err)
		}
		if n < fewest || w.by < 0 {
			w.by, fewest = i, n
		}
	}
	return nil
}

// namesDevices reports whether the query is about devices that it names.
func (w *walk) namesDevices() bool {
	for _, r := range w.ids {
		if r.first != r.last {
			return false
		}
	}
	return true
}

// How far entries are counted, and in how many ranges.
const (
	maxProbe       = 1000
	maxProbeRanges = 16
)

// probe counts the entries that the query would go through, up to limit. Of many
// ranges it takes most for one entry each.
func (w *walk) probe(ctx context.Context, in index, limit int) (int, error) {
	counted := in.ranges[:min(len(in.ranges), maxProbeRanges)]
	total := len(in.ranges) - len(counted)
	for _, r := range counted {
		if total >= limit {
			break
		}
		n, err := w.service.registry.CountTwinEntries(ctx, in.path, TwinEntry{Value: r.low}, r.high, limit-total)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// lastID is behind all device IDs, which are ASCII without control characters.
const lastID = "\x7f"

// deviceRanges are the IDs that a term about them allows.
func deviceRanges(t query.Term) ([]idRange, bool) {
	if key, _ := t.Path.Key(); key != "deviceId" || t.Element {
		return nil, false
	}
	ids := []idRange{}
	for _, r := range t.Ranges {
		low, high := r.Low.Text(), r.High.Text()
		if r.Low.Kind() != query.String && r.High.Kind() != query.String {
			continue // no ID is another kind of value
		}
		if !ascii(low) || !ascii(high) {
			return nil, false
		}
		switch {
		case r.Prefix:
			high = low + lastID
		case r.High.Kind() == query.Undefined:
			high = lastID
		}
		ids = append(ids, idRange{device.ID(low), device.ID(high)})
	}
	return merged(ids, func(a, b idRange) int { return cmp.Compare(a.first, b.first) }, func(a *idRange, b idRange) bool {
		if b.first > a.last {
			return false
		}
		a.last = max(a.last, b.last)
		return true
	}), true
}

// ascii reports whether s has only characters that IDs may have.
func ascii(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= lastID[0] {
			return false
		}
	}
	return true
}

func valueRanges(of []query.Range) []valueRange {
	var ranges []valueRange
	for _, r := range of {
		low, high := r.Bounds()
		ranges = append(ranges, valueRange{low, high})
	}
	return merged(ranges, func(a, b valueRange) int { return bytes.Compare(a.low, b.low) }, func(a *valueRange, b valueRange) bool {
		if bytes.Compare(b.low, a.high) > 0 {
			return false
		}
		if bytes.Compare(b.high, a.high) > 0 {
			a.high = b.high
		}
		return true
	})
}

// merged orders ranges, and joins those that have something in common, so that
// nothing is found twice.
func merged[R any](ranges []R, order func(R, R) int, join func(*R, R) bool) []R {
	slices.SortFunc(ranges, order)
	joined := ranges[:0]
	for _, r := range ranges {
		if len(joined) == 0 || !join(&joined[len(joined)-1], r) {
			joined = append(joined, r)
		}
	}
	return joined
}

// A looked is a twin that was found on the way, nil when it is gone, whether it is
// what the query asks for, and how far the way is behind it.
type looked struct {
	Found
	behind position
	holds  bool
}

// next looks at the next twins behind a position, up to limit, and returns none at
// the end of the way.
func (w *walk) next(ctx context.Context, behind position, limit int) ([]looked, error) {
	if w.looks >= scanFrom {
		if err := w.enter(ctx); err != nil {
			return nil, err
		}
		end, err := w.service.scans.turn(ctx)
		if err != nil {
			return nil, err
		}
		defer end()
	}
	batch, err := w.read(ctx, behind, limit)
	w.looks += len(batch)
	for i := range batch {
		batch[i].holds = w.satisfies(batch[i])
	}
	return batch, err
}

// enter has the walk wait for a place among the scans. The time that it has begins
// then.
func (w *walk) enter(ctx context.Context) error {
	if w.entered {
		return nil
	}
	if err := w.service.scans.enter(ctx); err != nil {
		return err
	}
	w.entered, w.scans, w.began = true, true, w.service.now()
	return nil
}

// end gives back what the walk has.
func (w *walk) end() {
	if w.scans {
		w.service.scans.leave()
	}
}

// read returns the next twins behind a position.
func (w *walk) read(ctx context.Context, behind position, limit int) ([]looked, error) {
	var batch []looked
	var err error
	if w.by >= 0 {
		batch, err = w.nextEntries(ctx, behind, limit)
	} else {
		batch, err = w.nextPlaces(ctx, behind, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("querying the twins of %s: %w", w.hub, err)
	}
	if !w.about {
		return batch, nil
	}
	var found []*Found
	for i := range batch {
		if batch[i].Twin != nil {
			found = append(found, &batch[i].Found)
		}
	}
	return batch, w.service.learn(ctx, found)
}

// nextPlaces reads devices, or modules, in the order of their IDs. Devices that the
// query names are fetched together.
func (w *walk) nextPlaces(ctx context.Context, behind position, limit int) ([]looked, error) {
	after := Place{ID: behind.ID, Module: behind.Module}
	var named []TwinEntry
	for _, r := range w.ids {
		switch {
		case after.ID > r.last, !w.modules && after.ID == r.last:
			continue
		case !w.modules && r.first == r.last:
			if named = append(named, TwinEntry{ID: r.first}); len(named) == limit {
				return w.homes(ctx, named)
			}
			continue
		case len(named) > 0:
			return w.homes(ctx, named)
		}
		part := Part{Modules: w.modules, First: max(r.first, after.ID), Last: r.last, After: after}
		found, err := w.service.registry.ScanTwins(ctx, w.hub, part, w.members, limit)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			continue
		}
		batch := make([]looked, len(found))
		for i, f := range found {
			batch[i] = looked{Found: f, behind: position{ID: f.Identity.ID, Module: f.Identity.Module}}
		}
		return batch, nil
	}
	return w.homes(ctx, named)
}

// nextEntries reads the index, in the order of its values.
func (w *walk) nextEntries(ctx context.Context, behind position, limit int) ([]looked, error) {
	in := w.indexes[w.by]
	var entries []TwinEntry
	for _, r := range in.ranges {
		after := behind
		if bytes.Compare(after.Value, r.high) > 0 {
			continue
		}
		if bytes.Compare(after.Value, r.low) < 0 {
			after = TwinEntry{Value: r.low}
		}
		more, err := w.service.registry.TwinEntries(ctx, in.path, after, r.high, limit-len(entries))
		if err != nil {
			return nil, err
		}
		if entries = append(entries, more...); len(entries) == limit {
			break
		}
	}
	return w.homes(ctx, entries)
}

// homes fetches the twins of entries.
func (w *walk) homes(ctx context.Context, entries []TwinEntry) ([]looked, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	places := make([]Place, len(entries))
	for i, e := range entries {
		places[i] = Place{w.hub, e.ID, e.Module}
	}
	found, err := w.service.registry.TwinsAt(ctx, places, w.members)
	if err != nil {
		return nil, err
	}
	at := make(map[Place]Found, len(found))
	for _, f := range found {
		at[f.Identity.Place] = f
	}
	batch := make([]looked, len(entries))
	for i, e := range entries {
		batch[i] = looked{Found: at[places[i]], behind: e}
	}
	return batch, nil
}

// learn adds to twins what is known of them beside.
func (s *Service) learn(ctx context.Context, found []*Found) error {
	if len(found) == 0 {
		return nil
	}
	places := make([]Place, len(found))
	for i, f := range found {
		places[i] = f.Identity.Place
	}
	known, err := s.registry.About(ctx, places, s.now())
	if err != nil {
		return fmt.Errorf("reading who is connected to %s: %w", places[0].Hub, err)
	}
	for i, f := range found {
		f.About = known[places[i]]
		f.About.Connected = f.About.Connected || s.Connected(places[i])
	}
	return nil
}

// satisfies reports whether a twin is what the query asks for.
func (w *walk) satisfies(l looked) bool {
	d := queriedTwin{l.Found}
	if d.Twin == nil || w.query.Where != nil && !w.query.Where.Holds(d) {
		return false
	}
	return w.by < 0 || w.indexes[w.by].has(d, l.behind.Value)
}

// all calls use with every twin that satisfies the query, to the end.
func (w *walk) all(ctx context.Context, use func(queriedTwin) error) error {
	var at position
	for {
		batch, err := w.next(ctx, at, maxBatch)
		if err != nil || len(batch) == 0 {
			return err
		}
		for _, l := range batch {
			if !l.holds {
				continue
			}
			if err := use(queriedTwin{l.Found}); err != nil {
				return err
			}
		}
		at = batch[len(batch)-1].behind
		if w.service.now().Sub(w.began) > aggregateTime {
			return invalid("The query looked at %d twins in %v and is not done. Have WHERE name fewer: = and IN on tags or properties find them by an index", w.looks, aggregateTime)
		}
	}
}

// How many twins are read at once.
const (
	minBatch = 64
	maxBatch = 512
)

// A continuation is what is to be known about the pages before. It is the
// client's to forge: it says where to go on, and nothing else.
type continuation struct {
	Of     uint64 // the query
	By     int    // the index that it goes by
	Value  []byte `json:",omitempty"`
	ID     device.ID
	Module device.ID `json:",omitempty"`
	Left   int       // rows
}

// of is a number for the query.
func (w *walk) of() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\n%s", w.hub, w.query)
	return h.Sum64()
}

func (w *walk) continuation(behind position, left int) string {
	text, err := json.Marshal(continuation{w.of(), w.by, behind.Value, behind.ID, behind.Module, left})
	if err != nil {
		return "" // numbers and texts always encode
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// resume goes on where a page ended, by the way that was planned for the first
// one.
func (w *walk) resume(continued string) error {
	var c continuation
	text, err := base64.RawURLEncoding.DecodeString(continued)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil || c.Of != w.of() || c.By < -1 || c.By >= len(w.indexes) || c.Left < 1 || c.Left > w.left ||
		!ascii(string(c.ID)) || !ascii(string(c.Module)) || w.query.Aggregates() {
		return invalid("The continuation is not one of this query")
	}
	w.by, w.left, w.from = c.By, c.Left, position{c.Value, c.ID, c.Module}
	return nil
}

// page looks for a page of rows.
func (w *walk) page(ctx context.Context, limit int) (Page, error) {
	page, at := Page{Whole: w.query.Whole()}, w.from
	size, rows := 0, 0
	limit = min(limit, w.left)
	for {
		batch, err := w.next(ctx, at, min(max(2*(limit-rows), minBatch), maxBatch))
		if err != nil || len(batch) == 0 {
			return page, err
		}
		full := false
		for i, l := range batch {
			at = l.behind
			if l.holds {
				rows++
				size += page.add(w.query, queriedTwin{l.Found})
			}
			if full = rows == limit || size >= maxPageSize; full {
				batch = batch[i:]
				break
			}
		}
		if rows == w.left {
			return page, nil // all that TOP allows
		}
		if full {
			if more, err := w.more(ctx, batch); err != nil || !more {
				return page, err
			}
		}
		if full || w.looks >= maxLooks || w.service.now().Sub(w.began) >= pageTime {
			page.Continuation = w.continuation(at, w.left-rows)
			return page, nil
		}
	}
}

// more reports whether there may be rows behind the first twin of a batch, which
// filled a page: to clients a continuation says that there is another one.
func (w *walk) more(ctx context.Context, batch []looked) (bool, error) {
	for _, l := range batch[1:] {
		if l.holds {
			return true, nil
		}
	}
	next, err := w.next(ctx, batch[len(batch)-1].behind, minBatch)
	return len(next) > 0, err
}

// add takes a twin in and returns about how many bytes that are.
func (p *Page) add(q *query.Query, d queriedTwin) int {
	if p.Whole {
		p.Twins = append(p.Twins, d.Found)
		t := d.Twin
		return len(t.Tags) + len(t.Desired) + len(t.DesiredMetadata) + len(t.Reported) + len(t.ReportedMetadata) + len(t.Configurations)
	}
	row := q.AppendRow(nil, d)
	p.Rows = append(p.Rows, row)
	return len(row)
}
