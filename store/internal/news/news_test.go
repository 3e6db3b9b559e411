package news

import "testing"

func TestNewsWakesWhoWatchesAndNeverGoesBack(t *testing.T) {
	var n News
	last, first := n.Watch()
	_, same := n.Watch()
	if last != 0 || n.Last() != 0 {
		t.Errorf("begins with %d", last)
	}
	n.Publish(0)
	select {
	case <-first:
		t.Fatal("woken by nothing new")
	default:
	}
	n.Publish(5)
	<-first
	<-same
	last, next := n.Watch()
	n.Publish(3)
	select {
	case <-next:
		t.Error("woken by old news")
	default:
	}
	if last != 5 || n.Last() != 5 {
		t.Errorf("%d and then %d, want 5", last, n.Last())
	}
	n.Publish(6)
	<-next
}
