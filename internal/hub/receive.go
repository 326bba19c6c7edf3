package hub

import (
	"bytes"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// What the payloads on a room's channel begin with. Presence has its own letters.
const (
	fromInstance = 'm' // m<hub id> <JSON of an Audience, or nothing>\n<JSON of the client frame>
	toUser       = 'u' // the same, on the users' channel, to Only
	fromOutside  = '{' // the JSON of a message that someone else has published
	lossNotice   = 'g' // g<hub id>: messages of that hub may not have arrived; on the users' channel, in any room
	fromOperator = 'o' // o<hub id> <node> <number>\n<JSON of an Order>, on the users' channel
	toOperator   = 'a' // a<number>\n<JSON of an answer>, on the channel of the node that has asked
	limitReset   = 'f' // f<hub id>\n<limit>\n<key>: what was counted is to be forgotten; on the users' channel
)

// Receive implements bus.Receiver.
func (h *Hub) Receive(channel string, payload []byte) {
	name, isRoom := strings.CutPrefix(channel, h.channel(""))
	var kind byte
	if len(payload) > 0 {
		kind = payload[0]
	}
	switch {
	case isRoom && kind == fromInstance:
		h.receiveMessage(name, payload[1:])
	case isRoom && kind == fromOutside:
		h.receiveOutside(name, payload)
	case kind == lossNotice:
		h.receiveLoss(name, isRoom, string(payload[1:]))
	case !isRoom && kind == toUser:
		h.receiveUserMessage(payload[1:])
	case !isRoom && kind == fromOperator:
		h.receiveOrder(payload[1:])
	case !isRoom && kind == toOperator:
		h.receiveAnswer(payload[1:])
	case !isRoom && kind == limitReset:
		h.receiveReset(payload[1:])
	case !isRoom && kind == moderation.Kind:
		h.backend.Moderation.Deliver(payload)
	case h.backend.Feed != nil:
		h.backend.Feed.Deliver(channel, payload)
	}
}

// Lost implements bus.Receiver.
func (h *Hub) Lost(channels []string) {
	for _, channel := range channels {
		name, isRoom := strings.CutPrefix(channel, h.channel(""))
		if r := h.room(name); isRoom && r != nil {
			r.tellGap()
		}
		if channel == redisdb.UsersChannel(h.opts.Base) {
			h.backend.Moderation.Lost()
		}
	}
	if h.backend.Feed != nil {
		h.backend.Feed.Lost(channels)
	}
}

// LossNotice is what tells the other instances that messages of this hub may not have reached them.
func (h *Hub) LossNotice() []byte { return append([]byte{lossNotice}, h.id...) }

// receiveLoss tells the members of a room, or of all, that messages of another hub may be missing. Its own members have them.
func (h *Hub) receiveLoss(name string, isRoom bool, from string) {
	if from == h.id {
		return
	}
	if isRoom {
		if r := h.room(name); r != nil {
			r.tellGap()
		}
		return
	}
	for _, r := range h.allRooms() {
		r.tellGap()
	}
}

// tellGap tells the members that messages may be missing.
func (r *room) tellGap() {
	r.relay(ws.Text(wire.AppendGap(ws.Buffer(64+len(r.name)), r.name, "bus")), addressees{})
}

func (h *Hub) receiveMessage(name string, payload []byte) {
	a, body, ok := h.openPayload(payload)
	if !ok {
		return
	}
	r := h.room(name)
	if r == nil {
		return
	}
	h.measureLag(body)
	r.relay(ws.Text(append(ws.Buffer(len(body)), body...)), h.addressees(a))
}

func (h *Hub) receiveUserMessage(payload []byte) {
	a, body, ok := h.openPayload(payload)
	if !ok || a.Only == "" {
		return
	}
	h.measureLag(body)
	h.deliver(ws.Text(append(ws.Buffer(len(body)), body...)), a)
}

// openPayload takes apart what another instance has published; false for what is malformed, or our own echo: that was delivered before it left.
func (h *Hub) openPayload(payload []byte) (a Audience, body []byte, ok bool) {
	head, body, ok := bytes.Cut(payload, []byte{'\n'})
	from, header, ok2 := bytes.Cut(head, []byte{' '})
	if !ok || !ok2 || string(from) == h.id {
		return a, nil, false
	}
	a, ok = h.readHeader(header)
	return a, body, ok
}

func (h *Hub) measureLag(message []byte) {
	if ts, ok := wire.MessageTime(message); ok {
		// Clocks of instances differ: what seems to come from the future has come at once.
		h.metrics.BusLag.Observe(max(0, time.Since(time.UnixMilli(ts)).Seconds()))
	}
}

// receiveOutside delivers a message that was published on a room's channel without our header: by a cron job, redis-cli, another
// program. Every instance validates it for itself.
func (h *Hub) receiveOutside(name string, payload []byte) {
	r := h.room(name)
	if r == nil {
		return
	}
	if len(payload) > h.MaxMessage() {
		h.metrics.DroppedOutside.Inc()
		h.logger.Warn("message from outside is too large", zap.String("room", name), zap.Int("size", len(payload)))
		return
	}
	event, data, err := wire.DecodeOutside(payload)
	if err != nil {
		h.metrics.DroppedOutside.Inc()
		h.logger.Warn("message from outside is malformed", zap.String("room", name), zap.Error(err))
		return
	}
	b := wire.AppendMessage(ws.Buffer(len(payload)+128), &wire.Message{Room: name, Event: event, Data: data, TS: time.Now().UnixMilli()})
	r.relay(ws.Text(b), addressees{})
}
