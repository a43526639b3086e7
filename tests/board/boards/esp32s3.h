/* Stands in for ESP-IDF: what esp32s3.c uses of it, and a driver that holds some buffers and drops the oldest. */
#ifndef ESP32S3_H
#define ESP32S3_H

#include "played.h"

#define IRAM_ATTR
#define ESP_ERROR_CHECK(call) REQUIRE((call) == ESP_OK)
typedef int esp_err_t;
enum { ESP_OK, ESP_FAIL = -1 };
typedef enum { GPIO_NUM_NC = -1, GPIO_NUM_4 = 4, GPIO_NUM_5, GPIO_NUM_6, GPIO_NUM_21 = 21 } gpio_num_t;
typedef enum { GPIO_MODE_OUTPUT = 2 } gpio_mode_t;
enum { I2S_NUM_AUTO = -1, I2S_ROLE_MASTER = 0, I2S_DATA_BIT_WIDTH_32BIT = 32, I2S_SLOT_MODE_MONO = 1 };
#define I2S_GPIO_UNUSED GPIO_NUM_NC

typedef struct {
    void *dma_buf;
    size_t size;
} i2s_event_data_t;
typedef struct i2s_channel_obj_t *i2s_chan_handle_t;
typedef bool (*i2s_isr_callback_t)(i2s_chan_handle_t, i2s_event_data_t *, void *);
typedef struct {
    i2s_isr_callback_t on_recv, on_recv_q_ovf;
} i2s_event_callbacks_t;
typedef struct {
    int id, role;
    uint32_t dma_desc_num, dma_frame_num;
} i2s_chan_config_t;
typedef struct {
    struct {
        uint32_t sample_rate_hz;
    } clk_cfg;
    struct {
        int data_bit_width, slot_mode;
    } slot_cfg;
    struct {
        gpio_num_t mclk, bclk, ws, dout, din;
    } gpio_cfg;
} i2s_std_config_t;
#define I2S_CHANNEL_DEFAULT_CONFIG(number, of) {.id = number, .role = of, .dma_desc_num = 6, .dma_frame_num = 240}
#define I2S_STD_CLK_DEFAULT_CONFIG(rate) {.sample_rate_hz = rate}
#define I2S_STD_PHILIPS_SLOT_DEFAULT_CONFIG(bits, mode) {.data_bit_width = bits, .slot_mode = mode}

struct i2s_channel_obj_t {
    i2s_event_callbacks_t callbacks;
    uint32_t frames;
    bool ready, enabled;
};
static struct i2s_channel_obj_t stand_in_channel;
static bool stand_in_watched = false;

static inline esp_err_t gpio_set_direction(gpio_num_t pin, gpio_mode_t mode) {
    return pin == GPIO_NUM_21 && mode == GPIO_MODE_OUTPUT ? ESP_OK : ESP_FAIL;
}
static inline esp_err_t gpio_set_level(gpio_num_t pin, uint32_t level) {
    show(pin == GPIO_NUM_21 && level == 0);
    return ESP_OK;
}
static inline esp_err_t i2s_new_channel(const i2s_chan_config_t *config, i2s_chan_handle_t *tx, i2s_chan_handle_t *rx) {
    REQUIRE(!tx && config->dma_desc_num >= 2);
    stand_in_channel.frames = config->dma_frame_num;
    *rx = &stand_in_channel;
    return ESP_OK;
}
static inline esp_err_t i2s_channel_init_std_mode(i2s_chan_handle_t channel, const i2s_std_config_t *config) {
    REQUIRE(config->clk_cfg.sample_rate_hz == 16000 && config->slot_cfg.data_bit_width == 32);
    REQUIRE(config->slot_cfg.slot_mode == I2S_SLOT_MODE_MONO && config->gpio_cfg.din == GPIO_NUM_6);
    channel->ready = true;
    return ESP_OK;
}
static inline esp_err_t i2s_channel_register_event_callback(i2s_chan_handle_t channel,
                                                            const i2s_event_callbacks_t *callbacks, void *data) {
    REQUIRE(!data && !channel->enabled);
    channel->callbacks = *callbacks;
    return ESP_OK;
}
static inline esp_err_t i2s_channel_enable(i2s_chan_handle_t channel) {
    channel->enabled = channel->ready;
    return channel->ready ? ESP_OK : ESP_FAIL;
}
static inline esp_err_t i2s_channel_read(i2s_chan_handle_t channel, void *to, size_t size, size_t *bytes, uint32_t ms) {
    REQUIRE(channel->enabled && ms > 20 && size % 4 == 0);
    for (int parts = parts_now(); parts > 1; parts--) {
        i2s_event_data_t dropped = {NULL, channel->frames * 4};
        REQUIRE(dropped.size == size);
        play(to, size);
        channel->callbacks.on_recv_q_ovf(channel, &dropped, NULL);
    }
    play(to, size);
    *bytes = size;
    return ESP_OK;
}
static inline esp_err_t esp_task_wdt_add(void *task) {
    stand_in_watched = task == NULL;
    return ESP_OK;
}
static inline esp_err_t esp_task_wdt_reset(void) {
    feed();
    return stand_in_watched ? ESP_OK : ESP_FAIL;
}

void app_main(void);
int main(void) {
    app_main();
    return 0;
}

#endif
