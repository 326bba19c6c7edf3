package hub

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestLateClientOfAnEndpointThatIsNoMore has a request reach its endpoint when a reload has taken that away: what the new configuration says
// about clients says nothing about this one, so it is asked to come again as those are that were there before.
func TestLateClientOfAnEndpointThatIsNoMore(t *testing.T) {
	h := open(t, nil)
	old := h.endpoint
	h.Bind([]Binding{{Admission: "another", Policy: defaultPolicy()}})
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !old.Admit() {
			t.Error("not admitted")
			return
		}
		if err := old.Accept(w, r, Client{Conn: NewConnID(), User: "ann"}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(late.Close)
	ann := roomstest.Dial(t, late.URL, nil)
	if bye := ann.Next("bye"); bye["code"] != 4200.0 || bye["reason"] != "restart" {
		t.Errorf("bye %v", bye)
	}
}

// TestLateClientOfASignerWhoIsNotTrusted has a request come in by a token whose signer a reload has just taken away.
func TestLateClientOfASignerWhoIsNotTrusted(t *testing.T) {
	h := open(t, func(p *Policy) { p.Trusts = func(signer string) bool { return signer == "new" } })
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signer := r.URL.Query().Get("signer")
		if !h.endpoint.Admit() {
			t.Error("not admitted")
			return
		}
		if err := h.endpoint.Accept(w, r, Client{Conn: NewConnID(), User: "ann", Access: &Access{User: "ann", Signer: signer}}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(late.Close)
	ann, bob := roomstest.Dial(t, late.URL+"?signer=old", nil), roomstest.Dial(t, late.URL+"?signer=new", nil)
	if bye := ann.Next("bye"); bye["code"] != 4001.0 || bye["reason"] != "revoked" {
		t.Errorf("bye %v", bye)
	}
	bob.Quiet()
}
