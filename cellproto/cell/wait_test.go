package cell

import "testing"

// A place that becomes free goes to the owner's call that waits for it, before anybody else's begins.
func TestFlightsOwnerFirst(t *testing.T) {
	f := &flights{}
	f.init()
	f.bound(1)
	free := func(place chan struct{}) bool {
		select {
		case <-place:
			return true
		default:
			return false
		}
	}
	if err := f.begin(); err != nil {
		t.Fatal(err)
	}
	second, err := f.await(false)
	if err != nil {
		t.Fatal(err)
	}
	first, err := f.await(true)
	if err != nil || free(first) || free(second) {
		t.Fatalf("%v; there was no place", err)
	}
	f.end()
	if !free(first) || free(second) {
		t.Error("the place is not the first one's")
	}
	if f.begin() != errBusy {
		t.Error("another call has begun beside it")
	}
	if !f.giveUp(second) || f.giveUp(first) {
		t.Error("who waits can give up, who has a place cannot")
	}
	f.gone()
	f.end() // the second
	f.end() // the first
	if f.count() != 0 || f.begin() != nil {
		t.Errorf("%d are counted, or there is no place", f.count())
	}
	idle := f.close()
	if _, err := f.await(true); err != errStopping {
		t.Error(err)
	}
	f.end()
	<-idle
}
