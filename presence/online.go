package presence

import "slices"

// here returns a user as this instance knows it; false when it has no connection here. base.mu is held.
func (b *base) here(id string) (o OnlineUser, online bool) {
	u := b.users[id]
	if u == nil {
		return OnlineUser{}, false
	}
	devices := make([]string, 0, u.conns.Len())
	for c := range u.conns.Values() {
		devices = append(devices, c.Device)
	}
	o = onlineUser(id, u.status, devices)
	o.Since, o.LastSeen = u.came, u.seen
	return o, true
}

// onlineUser sums up a user's connections, given the device of each.
func onlineUser(id, status string, devices []string) OnlineUser {
	u := OnlineUser{User: id, Status: status, Conns: len(devices)}
	if u.Status == "" {
		u.Status = DefaultStatus
	}
	slices.Sort(devices)
	u.Devices = slices.DeleteFunc(slices.Compact(devices), func(d string) bool { return d == "" })
	return u
}
